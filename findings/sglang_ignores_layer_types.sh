#!/usr/bin/env bash
# A checkpoint of Qwen3.5 that transformers saves does not load in SGLang, and one that names other layers loads wrong.
#
# Which layers have full attention, transformers writes as a list, "layer_types", and nothing else. SGLang's configuration
# of the same models reads "full_attention_interval" alone: without it AttributeError, and with it the list is not
# looked at. So a model whose layers alternate (here: linear, full, linear, full) and whose config.json has the interval of
# Qwen's own checkpoints, 4, gets full attention in its last layer only. Whoever serves such a model adds the interval
# that fits the list; where none does, SGLang cannot serve it.
#
# Seen with sglang 0.5.23, transformers 5.19.0, torch 2.14.1, Python 3.11:
#   transformers writes: layer_types yes, full_attention_interval no
#   SGLang of that: AttributeError
#   SGLang with full_attention_interval 4: linear linear linear full
#   SGLang with full_attention_interval 2: linear full linear full
# Fails if that changes. Downloads 3 GB (torch).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip=("$folder/env/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir)
"${pip[@]}" torch==2.14.1 transformers==5.19.0 numpy requests orjson psutil setproctitle aiohttp fastapi pyzmq \
  pydantic pybase64 msgspec pillow tqdm packaging uvicorn uvloop ipython openai==2.8.0 einops dill nvidia-ml-py scipy \
  sentencepiece torchvision python-multipart httpx
"${pip[@]}" --no-deps sglang==0.5.23
"$folder/env/bin/python" - 2>/dev/null <<'PYTHON' | tee "$folder/seen"
from transformers import Qwen3_5MoeTextConfig

written = Qwen3_5MoeTextConfig(num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2).to_dict()
known = {True: "yes", False: "no"}
print(
    f"transformers writes: layer_types {known['layer_types' in written]},"
    f" full_attention_interval {known['full_attention_interval' in written]}"
)

from sglang.srt.configs.qwen3_5 import Qwen3_5MoeTextConfig as OfSGLang

del written["model_type"]


def layers(**more):
    try:
        kinds = OfSGLang(**{**written, **more}).layers_block_type
    except AttributeError:
        return "AttributeError"
    return " ".join("linear" if "linear" in kind else "full" for kind in kinds)


print("SGLang of that:", layers())
for interval in (4, 2):
    print(f"SGLang with full_attention_interval {interval}:", layers(full_attention_interval=interval))
PYTHON
diff "$folder/seen" - <<'SEEN'
transformers writes: layer_types yes, full_attention_interval no
SGLang of that: AttributeError
SGLang with full_attention_interval 4: linear linear linear full
SGLang with full_attention_interval 2: linear full linear full
SEEN
