#!/usr/bin/env bash
# A config.json of a Qwen3-MoE model that transformers 5.24.0 saves cannot be read by an older release, and nothing says so.
#
# 5.24.0 calls the field num_experts "num_local_experts" when it saves (and reads both). 4.57.1 takes the new name for
# a field that it does not know, keeps it, and fills in its default for num_experts, 128: a model of 64 experts is then
# one of 128, without an error or a warning. Whoever reads config.json by itself meets the same.
#
# Installs both from PyPI into a temporary folder. Config classes alone are used: no torch, no weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for version in 5.24.0 4.57.1; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "transformers==$version"
done

cat >"$folder/save.py" <<'PYTHON'
import sys, transformers
from transformers import Qwen3MoeConfig
Qwen3MoeConfig(num_experts=64).save_pretrained(sys.argv[1])
print("saved by transformers", transformers.__version__)
PYTHON
cat >"$folder/read.py" <<'PYTHON'
import sys, transformers
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1])
print("transformers", transformers.__version__, "reads num_experts =", config.num_experts)
PYTHON

"$folder/5.24.0/bin/python" "$folder/save.py" "$folder/model" 2>/dev/null
grep -E '"num_(local_)?experts"' "$folder/model/config.json"
new=$("$folder/5.24.0/bin/python" "$folder/read.py" "$folder/model" 2>/dev/null)
old=$("$folder/4.57.1/bin/python" "$folder/read.py" "$folder/model" 2>"$folder/warnings")
echo "$new"
echo "$old"
grep -i "expert" "$folder/warnings" && exit 1 # it would say something

# Seen:
#   saved by transformers 5.24.0
#     "num_local_experts": 64,
#   transformers 5.24.0 reads num_experts = 64
#   transformers 4.57.1 reads num_experts = 128
if grep -q '"num_experts"' "$folder/model/config.json"; then exit 1; fi
[ "$new" = "transformers 5.24.0 reads num_experts = 64" ]
[ "$old" = "transformers 4.57.1 reads num_experts = 128" ]
echo "as described"
