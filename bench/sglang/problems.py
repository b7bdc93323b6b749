"""Word problems, asked of a server over HTTP."""

from __future__ import annotations

import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

from server import Server


def final_answer(text: str) -> str | None:
    """The first word behind the last "####", without commas."""
    _head, mark, tail = text.rpartition("####")
    words = tail.split()
    return words[0].replace(",", "") if mark and words else None


def solve(server: Server, file: pathlib.Path, at_once: int = 32) -> list[dict]:
    """Asks all problems of a file, greedily: the text of each answer, and whether its number is right."""
    problems = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]

    def ask(problem: dict) -> dict:
        body = {
            "text": f"Question: {problem['question']}\nAnswer:",
            "sampling_params": {"temperature": 0, "max_new_tokens": 96},
        }
        answer = server.generate(body, 120)
        assert isinstance(answer, dict)
        right = final_answer(answer["text"]) == final_answer(problem["answer"])
        return {"text": answer["text"], "right": right}

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(ask, problems))
