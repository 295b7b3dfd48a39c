"""Tasks of lm-evaluation-harness over local files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
{body}
"""
CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
num_fewshot: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
WRITING = """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def write_task(folder: Path, name: str, body: str, documents: Sequence[object]) -> None:
    """Writes a task that the harness finds by its name with ``include_path=folder``."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, body=body))
