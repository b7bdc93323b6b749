"""Templated grade-school word problems in the style of GSM8K.

Every problem is a dictionary {"question": text, "answer": text}. The answer spells out one
equation per step and ends with GSM8K's final line, "#### N". All text comes from the templates
in this file; nothing is taken from another data set.

Run the file to print a few problems:

    python3 models/word_problems.py --count 5 --seed 1
"""

import argparse
import json
import random

# fmt: off
GIRLS = [
    "Anna", "Maria", "Emma", "Olivia", "Lucy", "Grace", "Nora", "Ruth", "Alice",
    "Clara", "Julia", "Sofia", "Mia", "Lily", "Rosa", "Hannah", "Ella", "Zoe",
    "Naomi", "Vera", "Tina", "Jane", "Carla", "Irene", "Molly", "Wendy", "Paula",
    "Diana", "Fiona", "Amy",
]
BOYS = [
    "Tom", "Ben", "Sam", "Jack", "Leo", "Max", "Paul", "Peter", "Henry", "Oscar",
    "David", "Liam", "Noah", "Omar", "Ivan", "Felix", "Hugo", "Mark", "Luke",
    "Adam", "Carlos", "Victor", "Simon", "Martin", "Eric", "Kevin", "Diego",
    "Robert", "Frank", "Alan",
]
# (singular, plural)
THINGS = [
    ("apple", "apples"), ("marble", "marbles"), ("sticker", "stickers"),
    ("book", "books"), ("pencil", "pencils"), ("coin", "coins"),
    ("shell", "shells"), ("card", "cards"), ("stamp", "stamps"),
    ("button", "buttons"), ("cookie", "cookies"), ("balloon", "balloons"),
    ("bead", "beads"), ("flower", "flowers"), ("egg", "eggs"),
    ("orange", "oranges"), ("lemon", "lemons"), ("crayon", "crayons"),
    ("ticket", "tickets"), ("block", "blocks"), ("peach", "peaches"),
    ("rock", "rocks"), ("candle", "candles"), ("photo", "photos"),
    ("ribbon", "ribbons"), ("puzzle", "puzzles"), ("muffin", "muffins"),
    ("plum", "plums"),
]
GOODS = [
    ("pen", "pens"), ("notebook", "notebooks"), ("toy", "toys"), ("mug", "mugs"),
    ("cap", "caps"), ("scarf", "scarves"), ("lamp", "lamps"), ("shirt", "shirts"),
    ("basket", "baskets"), ("poster", "posters"), ("cake", "cakes"),
    ("sandwich", "sandwiches"), ("towel", "towels"), ("plant", "plants"),
    ("kite", "kites"), ("bowl", "bowls"),
]
HOLDERS = [
    ("box", "boxes"), ("bag", "bags"), ("jar", "jars"), ("tray", "trays"),
    ("crate", "crates"), ("pack", "packs"), ("basket", "baskets"),
    ("drawer", "drawers"),
]
FOODS = [
    ("apple", "apples"), ("cookie", "cookies"), ("muffin", "muffins"),
    ("plum", "plums"), ("pie", "pies"), ("peach", "peaches"), ("orange", "oranges"),
    ("pancake", "pancakes"),
]
COLORS = [
    "red", "blue", "green", "yellow", "white", "black",
]
# fmt: on
JOBS = [
    ("walks dogs", "walking dogs"),
    ("mows lawns", "mowing lawns"),
    ("washes cars", "washing cars"),
    ("teaches music", "teaching music"),
    ("paints fences", "painting fences"),
    ("serves tables", "serving tables"),
    ("cleans windows", "cleaning windows"),
]
# fmt: off
DAYS = [
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
]
# fmt: on
FRIENDS = ["a friend", "a neighbor", "a cousin", "a teacher"]
PLACES = ["school", "library", "club", "market", "camp", "theater", "museum", "farm"]
PEOPLE = ["students", "children", "visitors", "players", "guests", "workers"]


def _names(rng):
    """Two different people and the pronouns of the first, as template fields."""
    girl = rng.random() < 0.5
    name = rng.choice(GIRLS if girl else BOYS)
    other = rng.choice(GIRLS + BOYS)
    while other == name:
        other = rng.choice(GIRLS + BOYS)
    he, his = ("she", "her") if girl else ("he", "his")
    return {"n": name, "m": other, "he": he, "He": he.capitalize(), "his": his}


def _fields(rng):
    """All the words that a template may name."""
    out = _names(rng)
    (out["o1"], out["o"]), (_, out["o2"]) = rng.sample(THINGS, 2)
    out["q1"], out["q"] = rng.choice(FOODS)
    (out["g1"], out["g"]), (out["h1"], out["h"]) = rng.sample(GOODS, 2)
    out["k1"], out["k"] = rng.choice(HOLDERS)
    out["c"], out["c2"] = rng.sample(COLORS, 2)
    out["d"], out["d2"] = rng.sample(DAYS, 2)
    out["job"], out["jobbing"] = rng.choice(JOBS)
    out["f"] = rng.choice(FRIENDS)
    out["place"] = rng.choice(PLACES)
    out["people"] = rng.choice(PEOPLE)
    return out


# A sampler returns the numbers of a template as a dictionary; "ans" is the final answer.
def _add(r):
    a, b = r.randint(3, 90), r.randint(3, 90)
    return {"a": a, "b": b, "ans": a + b}


def _sub(r):
    a = r.randint(8, 99)
    b = r.randint(3, a - 3)
    return {"a": a, "b": b, "ans": a - b}


def _mul(r):
    a, b = r.randint(2, 12), r.randint(2, 12)
    return {"a": a, "b": b, "ans": a * b}


def _div(r):
    b, q = r.randint(2, 10), r.randint(2, 12)
    return {"a": b * q, "b": b, "ans": q}


def _mul_add(r):
    a, b, c = r.randint(2, 10), r.randint(2, 10), r.randint(2, 40)
    return {"a": a, "b": b, "x": a * b, "e": c, "ans": a * b + c}


def _mul_sub(r):
    while True:
        a, b = r.randint(2, 10), r.randint(2, 10)
        if a * b >= 8:
            break
    c = r.randint(2, a * b - 2)
    return {"a": a, "b": b, "x": a * b, "e": c, "ans": a * b - c}


def _mul_mul_add(r):
    a, b, c, e = (r.randint(2, 9) for _ in range(4))
    return {
        "a": a,
        "b": b,
        "x": a * b,
        "e": c,
        "l": e,
        "y": c * e,
        "ans": a * b + c * e,
    }


def _change(r):
    a, b = r.randint(2, 9), r.randint(2, 9)
    x = a * b
    pay = next(p for p in (20, 50, 100) if p > x + 1)
    return {"a": a, "b": b, "x": x, "e": pay, "ans": pay - x}


def _more_than(r):
    a, b = r.randint(3, 50), r.randint(2, 30)
    return {"a": a, "b": b, "x": a + b, "ans": a + a + b}


def _fewer_than(r):
    a = r.randint(8, 60)
    b = r.randint(2, a - 3)
    return {"a": a, "b": b, "x": a - b, "ans": a + a - b}


def _times_total(r):
    a, b = r.randint(2, 12), r.randint(2, 6)
    return {"a": a, "b": b, "x": a * b, "ans": a + a * b}


def _times_diff(r):
    a, b = r.randint(2, 12), r.randint(3, 6)
    return {"a": a, "b": b, "x": a * b, "ans": a * b - a}


def _half_left(r):
    x = r.randint(4, 30)
    b = r.randint(2, x - 2)
    return {"a": 2 * x, "x": x, "b": b, "ans": x - b}


def _sum_div(r):
    b, q = r.randint(2, 9), r.randint(2, 9)
    while b * q < 7:
        b, q = r.randint(2, 9), r.randint(2, 9)
    a = r.randint(2, b * q - 2)
    return {"a": a, "e": b * q - a, "x": b * q, "b": b, "ans": q}


def _sub_div(r):
    b, q, c = r.randint(2, 9), r.randint(2, 9), r.randint(2, 20)
    return {"a": b * q + c, "e": c, "x": b * q, "b": b, "ans": q}


def _earn_buy(r):
    a, b, p = r.randint(4, 12), r.randint(2, 9), r.randint(2, 9)
    while (a * b) % p or a * b // p < 2:
        a, b, p = r.randint(4, 12), r.randint(2, 9), r.randint(2, 9)
    return {"a": a, "b": b, "x": a * b, "e": p, "ans": a * b // p}


def _two_days(r):
    a, b = r.randint(3, 40), r.randint(2, 20)
    return {"a": a, "b": b, "x": a + b, "ans": a + a + b}


def _three_sum(r):
    a, b, c = r.randint(2, 40), r.randint(2, 40), r.randint(2, 40)
    return {"a": a, "b": b, "e": c, "x": a + b, "ans": a + b + c}


def _sub_add(r):
    a = r.randint(8, 80)
    b, c = r.randint(3, a - 3), r.randint(2, 40)
    return {"a": a, "b": b, "e": c, "x": a - b, "ans": a - b + c}


def _add_sub(r):
    a, b = r.randint(4, 60), r.randint(3, 40)
    c = r.randint(2, a + b - 2)
    return {"a": a, "b": b, "e": c, "x": a + b, "ans": a + b - c}


def _percent(r):
    p = r.choice([10, 20, 25, 50])
    k = 100 // p
    x = r.randint(2, 9)
    return {"a": k * x, "p": p, "k": k, "x": x, "ans": k * x - x}


def _three_mul_sub(r):
    a, b, c = r.randint(2, 9), r.randint(2, 9), r.randint(2, 5)
    x = a * b
    c = min(c, x - 2) if x > 4 else 2
    e = r.randint(2, 6)
    return {"a": a, "b": b, "x": x, "e": c, "y": x - c, "l": e, "ans": (x - c) * e}


def _age(r):
    a, b, y = r.randint(4, 15), r.randint(2, 4), r.randint(2, 12)
    return {"a": a, "b": b, "x": a * b, "e": y, "ans": a * b + y}


def _two_jobs(r):
    a, b, c, e = r.randint(5, 12), r.randint(2, 8), r.randint(5, 12), r.randint(2, 8)
    return {
        "a": a,
        "b": b,
        "x": a * b,
        "e": c,
        "l": e,
        "y": c * e,
        "ans": a * b + c * e,
    }


def _two_jobs_save(r):
    v = _two_jobs(r)
    v["t"] = v["ans"]
    v["s"] = r.randint(5, v["t"] - 3)
    v["ans"] = v["t"] - v["s"]
    return v


def _share_left(r):
    b, q = r.randint(2, 8), r.randint(4, 10)
    c = r.randint(2, q - 2)
    return {"a": b * q, "b": b, "x": q, "e": c, "ans": q - c}


def _rate(r):
    a, t = r.randint(2, 12), r.randint(2, 5)
    k = r.randint(2, 9)
    return {"a": a * t, "b": t, "x": a, "e": k, "ans": a * k}


# A template: (number sampler, question variants, reasoning variants).
TEMPLATES = [
    # one step
    (
        _add,
        [
            "{n} has {a} {o}. {He} buys {b} more {o}. How many {o} does {n} have now?",
            "{n} had {a} {o} and then found {b} more. How many {o} does {he} have in total?",
            "There are {a} {o} on a table. {n} puts {b} more on it. How many {o} are on the table?",
        ],
        ["{a} + {b} = {ans} {o}."],
    ),
    (
        _add,
        [
            "{n} read {a} pages on {d} and {b} pages on {d2}. How many pages did {he} read?",
            "On {d} {n} read {a} pages. On {d2} {he} read {b} pages. How many pages is that together?",
        ],
        ["{n} read {a} + {b} = {ans} pages."],
    ),
    (
        _sub,
        [
            "{n} has {a} {o}. {He} gives {b} of them to {m}. How many {o} does {n} have left?",
            "{n} had {a} {o} but lost {b} of them. How many {o} are left?",
            "There were {a} {o} in a {k1}. {n} took {b} of them. How many {o} are still in the {k1}?",
        ],
        ["{a} - {b} = {ans} {o}."],
    ),
    (
        _sub,
        [
            "{n} has {a} {o} and {m} has {b} {o}. How many more {o} does {n} have than {m}?",
            "{n} collected {a} {o}. {m} collected {b} {o}. How many fewer {o} did {m} collect?",
        ],
        ["The difference is {a} - {b} = {ans} {o}."],
    ),
    (
        _mul,
        [
            "{n} has {a} {k}. Each {k1} holds {b} {o}. How many {o} does {n} have?",
            "There are {b} {o} in each {k1}. {n} buys {a} {k}. How many {o} does {he} get?",
        ],
        ["{a} * {b} = {ans} {o}."],
    ),
    (
        _mul,
        [
            "A {g1} costs ${b}. How much do {a} {g} cost?",
            "{n} buys {a} {g} for ${b} each. How many dollars does {he} pay?",
        ],
        ["{a} {g} cost {a} * {b} = {ans} dollars."],
    ),
    (
        _mul,
        [
            "{n} {job} for {a} hours and earns ${b} an hour. How much money does {he} earn?",
            "{n} gets ${b} for each hour of {jobbing}. How much does {he} get for {a} hours?",
        ],
        ["{n} earns {a} * {b} = {ans} dollars."],
    ),
    (
        _div,
        [
            "{n} shares {a} {o} equally among {b} friends. How many {o} does each friend get?",
            "{b} friends share {a} {o} equally. How many {o} does each one get?",
        ],
        ["Each friend gets {a} / {b} = {ans} {o}."],
    ),
    (
        _div,
        [
            "{n} packs {a} {o} into {k} of {b}. How many {k} does {he} need?",
            "Each {k1} holds {b} {o}. How many {k} does {n} need for {a} {o}?",
        ],
        ["{n} needs {a} / {b} = {ans} {k}."],
    ),
    (
        _div,
        [
            "{n} paid ${a} for {b} {g}. Each {g1} cost the same. How much did one {g1} cost?",
        ],
        ["One {g1} cost {a} / {b} = {ans} dollars."],
    ),
    # two steps
    (
        _mul_add,
        [
            "{n} has {a} {k} with {b} {o} each and {e} more {o}. How many {o} does {he} have?",
            (
                "{n} buys {a} {k} of {o}. There are {b} {o} in each {k1}. {He} already had {e} {o}. "
                "How many {o} does {he} have now?"
            ),
        ],
        ["The {k} hold {a} * {b} = {x} {o}.\nIn total there are {x} + {e} = {ans} {o}."],
    ),
    (
        _mul_sub,
        [
            "{n} has {a} {k} with {b} {o} each. {He} gives away {e} {o}. How many {o} are left?",
            ("{n} fills {a} {k} with {b} {o} each. Then {m} takes {e} of the {o}. How many {o} remain?"),
        ],
        ["The {k} hold {a} * {b} = {x} {o}.\nThere are {x} - {e} = {ans} {o} left."],
    ),
    (
        _change,
        [
            "{n} buys {a} {g} for ${b} each and pays with ${e}. How much change does {he} get?",
            (
                "A {g1} costs ${b}. {n} buys {a} of them and pays with ${e}. "
                "How many dollars does {he} get back?"
            ),
        ],
        ["The {g} cost {a} * {b} = {x} dollars.\n{n} gets back {e} - {x} = {ans} dollars."],
    ),
    (
        _more_than,
        [
            "{n} has {a} {o}. {m} has {b} more {o} than {n}. How many {o} do they have together?",
            "{n} picked {a} {o}. {m} picked {b} more than {n}. How many {o} did they pick in total?",
        ],
        ["{m} has {a} + {b} = {x} {o}.\nTogether they have {a} + {x} = {ans} {o}."],
    ),
    (
        _fewer_than,
        [
            "{n} has {a} {o}. {m} has {b} fewer {o} than {n}. How many {o} do they have together?",
            "{n} found {a} {o}. {m} found {b} less than {n}. How many {o} did they find in total?",
        ],
        ["{m} has {a} - {b} = {x} {o}.\nTogether they have {a} + {x} = {ans} {o}."],
    ),
    (
        _times_total,
        [
            ("{n} has {a} {o}. {m} has {b} times as many {o} as {n}. How many {o} do they have together?"),
            "{n} sold {a} {o}. {m} sold {b} times as many. How many {o} did they sell in total?",
        ],
        ["{m} has {b} * {a} = {x} {o}.\nTogether they have {a} + {x} = {ans} {o}."],
    ),
    (
        _times_diff,
        [
            "{n} has {a} {o}. {m} has {b} times as many {o}. How many more {o} does {m} have?",
        ],
        ["{m} has {b} * {a} = {x} {o}.\nThe difference is {x} - {a} = {ans} {o}."],
    ),
    (
        _half_left,
        [
            "{n} had {a} {o}. {He} gave half of them to {m} and lost {b}. How many {o} are left?",
        ],
        ["Half of {a} is {a} / 2 = {x}.\nThere are {x} - {b} = {ans} {o} left."],
    ),
    (
        _half_left,
        [
            "{n} baked {a} {q}. Half of them were sold and {n} ate {b}. How many {q} are left?",
        ],
        ["Half of {a} is {a} / 2 = {x}.\nThere are {x} - {b} = {ans} {q} left."],
    ),
    (
        _sum_div,
        [
            (
                "{n} has {a} {c} {o} and {e} {c2} {o}. {He} puts them into {b} {k} equally. "
                "How many {o} are in each {k1}?"
            ),
            (
                "{n} has {a} {o} and {m} has {e} {o}. They share all of them equally among {b} friends. "
                "How many {o} does each friend get?"
            ),
        ],
        ["There are {a} + {e} = {x} {o}.\n{x} / {b} = {ans} {o} each."],
    ),
    (
        _sub_div,
        [
            (
                "{n} had {a} {o}. {He} kept {e} and shared the rest equally among {b} friends. "
                "How many {o} did each friend get?"
            ),
            (
                "{n} had {a} {o}. {e} got lost. The rest went into {b} {k} equally. "
                "How many {o} are in each {k1}?"
            ),
        ],
        ["The rest is {a} - {e} = {x} {o}.\n{x} / {b} = {ans} {o} each."],
    ),
    (
        _sub_div,
        [
            (
                "A baker made {a} {q}. {e} were burnt. The rest went onto {b} trays equally. "
                "How many {q} are on each tray?"
            ),
        ],
        ["The rest is {a} - {e} = {x} {q}.\n{x} / {b} = {ans} {q} each."],
    ),
    (
        _earn_buy,
        [
            (
                "{n} {job} for {b} hours and earns ${a} an hour. A {g1} costs ${e}. "
                "How many {g} can {he} buy with the money?"
            ),
        ],
        ["{n} earns {b} * {a} = {x} dollars.\n{He} can buy {x} / {e} = {ans} {g}."],
    ),
    (
        _three_sum,
        [
            "{n} has {a} {c} {o}, {b} {c2} {o} and {e} brown {o}. How many {o} does {he} have?",
            (
                "A {place} had {a} {people} on {d}, {b} on {d2} and {e} on the next day. "
                "How many {people} came in all?"
            ),
        ],
        ["{a} + {b} = {x}.\n{x} + {e} = {ans}."],
    ),
    (
        _sub_add,
        [
            (
                "{n} had {a} {o}. {He} gave {b} to {f} and then bought {e} more. "
                "How many {o} does {he} have now?"
            ),
            (
                "There were {a} {people} in a {place}. {b} left and {e} came in. "
                "How many {people} are in the {place} now?"
            ),
        ],
        ["{a} - {b} = {x}.\n{x} + {e} = {ans}."],
    ),
    (
        _add_sub,
        [
            (
                "{n} had {a} {o}. {He} got {b} from {m} and then gave {e} to {f}. "
                "How many {o} does {n} have now?"
            ),
            (
                "A bus had {a} {people} on it. At a stop {b} got on and {e} got off. "
                "How many {people} are on the bus now?"
            ),
        ],
        ["{a} + {b} = {x}.\n{x} - {e} = {ans}."],
    ),
    (
        _percent,
        [
            "A {g1} costs ${a}. It is sold at {p}% off. How much does the {g1} cost now?",
            "{n} had {a} {o}. {He} gave away {p}% of them. How many {o} does {he} have left?",
        ],
        ["{p}% of {a} is {a} / {k} = {x}.\n{a} - {x} = {ans}."],
    ),
    (
        _age,
        [
            "{n} is {a} years old. {m} is {b} times as old. How old will {m} be in {e} years?",
        ],
        ["{m} is {b} * {a} = {x} years old.\nIn {e} years {m} will be {x} + {e} = {ans}."],
    ),
    (
        _share_left,
        [
            (
                "{b} friends share {a} {q} equally. {n} is one of them and eats {e} {q}. "
                "How many {q} does {n} have left?"
            ),
        ],
        ["Each gets {a} / {b} = {x} {q}.\n{n} has {x} - {e} = {ans} {q} left."],
    ),
    (
        _rate,
        [
            "{n} needs {b} {k} for {a} {o}. How many {o} fit into {e} {k}?",
            "{b} {k} hold {a} {o}. How many {o} do {e} {k} hold?",
        ],
        ["{a} / {b} = {x} {o} for one {k1}.\n{e} * {x} = {ans} {o}."],
    ),
    (
        _rate,
        [
            "{n} can make {a} {q} in {b} hours. How many {q} can {he} make in {e} hours?",
        ],
        ["{a} / {b} = {x} {q} in one hour.\n{e} * {x} = {ans} {q}."],
    ),
    # three steps
    (
        _mul_mul_add,
        [
            "{n} buys {a} {g} for ${b} each and {e} {h} for ${l} each. How much does {he} pay?",
            "A {g1} costs ${b} and a {h1} costs ${l}. How much do {a} {g} and {e} {h} cost together?",
        ],
        [
            (
                "The {g} cost {a} * {b} = {x} dollars.\nThe {h} cost {e} * {l} = {y} dollars.\n"
                "The total is {x} + {y} = {ans} dollars."
            )
        ],
    ),
    (
        _two_jobs,
        [
            (
                "{n} earns ${a} an hour on {d} and ${e} an hour on {d2}. {He} works {b} hours on {d} "
                "and {l} hours on {d2}. How much does {he} earn?"
            ),
        ],
        [
            (
                "On {d} {n} earns {a} * {b} = {x} dollars.\nOn {d2} {n} earns {e} * {l} = {y} dollars.\n"
                "The total is {x} + {y} = {ans} dollars."
            )
        ],
    ),
    (
        _two_jobs_save,
        [
            (
                "{n} {job}. {He} worked {b} hours for ${a} an hour and {l} hours for ${e} an hour. "
                "Then {he} spent ${s}. How much money is left?"
            ),
        ],
        ["{b} * {a} = {x}.\n{l} * {e} = {y}.\n{x} + {y} = {t}.\n{t} - {s} = {ans} dollars."],
    ),
    (
        _two_days,
        [
            (
                "{n} sold {a} {o} on {d} and {b} more on {d2} than on {d}. "
                "How many {o} did {he} sell on both days?"
            ),
        ],
        ["On {d2} {n} sold {a} + {b} = {x} {o}.\nIn total {he} sold {a} + {x} = {ans} {o}."],
    ),
    (
        _three_mul_sub,
        [
            (
                "{n} makes {a} {k} of {b} {q} every day and {e} {q} a day go bad. "
                "How many good {q} are there after {l} days?"
            ),
        ],
        [
            (
                "A day gives {a} * {b} = {x} {q}.\n{x} - {e} = {y} are good.\n"
                "In {l} days: {y} * {l} = {ans} {q}."
            )
        ],
    ),
]

GAINS = [
    "{he} buys {v} more",
    "{he} finds {v} more",
    "{m} gives {n} {v} more",
    "{he} gets {v} from {f}",
]
LOSSES = [
    "{he} loses {v}",
    "{he} gives {v} to {m}",
    "{he} sells {v}",
    "{he} gives {v} to {f}",
]
OPENINGS = ["{n} has {v} {o}.", "{n} starts with {v} {o}.", "On {d} {n} has {v} {o}."]


def _chain(rng):
    """A story of two or three changes to one amount."""
    fields = _fields(rng)
    value = rng.randint(4, 60)
    text = [rng.choice(OPENINGS).format(v=value, **fields)]
    steps = []
    last = None
    for index in range(rng.randint(2, 3)):
        kinds = [k for k in ("gain", "loss", "double", "triple", "half") if k != last]
        if value < 8:
            kinds = [k for k in kinds if k not in ("loss", "half")]
        if value % 2:
            kinds = [k for k in kinds if k != "half"]
        if value > 40:
            kinds = [k for k in kinds if k not in ("double", "triple")]
        last = kind = rng.choice(kinds)
        if kind == "gain":
            v = rng.randint(2, 40)
            after, step = value + v, f"{value} + {v} = {value + v}."
            event = rng.choice(GAINS).format(v=v, **fields)
        elif kind == "loss":
            v = rng.randint(2, value - 3)
            after, step = value - v, f"{value} - {v} = {value - v}."
            event = rng.choice(LOSSES).format(v=v, **fields)
        elif kind == "half":
            after, step = value // 2, f"{value} / 2 = {value // 2}."
            event = rng.choice(["{he} sells half of them", "{he} gives half of them to {m}"])
            event = event.format(**fields)
        else:
            k, word = (2, "doubles") if kind == "double" else (3, "triples")
            after, step = value * k, f"{value} * {k} = {value * k}."
            event = "the number of {o} {w}".format(w=word, **fields)
        start = ("Then ", "After that ", "Later ")[index]
        text.append(f"{start}{event}.")
        steps.append(step)
        value = after
    text.append("How many {o} does {n} have now?".format(**fields))
    steps.append("{n} has {v} {o}.".format(v=value, **fields))
    return {"question": " ".join(text), "answer": "\n".join(steps) + f"\n#### {value}"}


def make_problem(rng):
    """Draw one problem with the random.Random `rng`."""
    if rng.random() < 0.15:
        return _chain(rng)
    sampler, questions, reasonings = rng.choice(TEMPLATES)
    fields = _fields(rng)
    fields.update(sampler(rng))
    question = rng.choice(questions).format(**fields)
    reasoning = rng.choice(reasonings).format(**fields)
    return {"question": question, "answer": f"{reasoning}\n#### {fields['ans']}"}


def final_answer(text):
    """The text after the last "####" of an answer, without blanks and commas; None without it."""
    _head, mark, tail = text.rpartition("####")
    if not mark:
        return None
    words = tail.split()
    return words[0].replace(",", "") if words else None


def main():
    """Print problems as JSON lines."""
    parser = argparse.ArgumentParser(
        description="Print templated word problems, one JSON object per line.",
        epilog="example: python3 models/word_problems.py --count 5 --seed 1",
    )
    parser.add_argument("--count", type=int, default=5, help="number of problems (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        print(json.dumps(make_problem(rng)))


if __name__ == "__main__":
    main()
