"""The examples: the README shows the one that is run, and the workflow gives it what it reads."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "examples" / "pipeline.py").read_text()
WORKFLOW = yaml.safe_load((ROOT / "examples" / "github-workflow.yaml").read_text())


def test_the_readme_shows_the_pipeline_that_the_acceptance_test_runs() -> None:
    assert f"```python\n{SCRIPT}```" in (ROOT / "README.md").read_text()


def test_the_workflow_runs_the_pipeline_with_every_variable_that_it_reads() -> None:
    (job,) = WORKFLOW["jobs"].values()
    (step,) = [one for one in job["steps"] if "pipeline.py" in one.get("run", "")]
    assert step["run"] == ".venv/bin/python ci/pipeline.py"
    assert set(step["env"]) == set(re.findall(r'environ\["(\w+)"\]', SCRIPT))
    assert {"${{ github.run_id }}", "${{ github.run_attempt }}"} <= set(
        re.findall(r"\${{ [\w.]+ }}", step["env"]["RUN_ID"])
    )
    # YAML reads a bare `on` as true.
    assert WORKFLOW[True]["schedule"]
