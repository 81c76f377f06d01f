"""The README's Python runs, and what it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run():
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def test_files_named_in_the_layout_exist():
    layout = re.findall(r"^    ((?:stn|lstm|cnn)/\S*) ", README, re.MULTILINE)
    assert layout
    assert [path for path in layout if not (ROOT / path).exists()] == []
