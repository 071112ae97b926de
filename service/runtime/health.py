"""Health issues: what does not work right now, by name."""

from dataclasses import dataclass, field


@dataclass
class Health:
    """Health issues by name, shown by `/readyz`, `/metrics` and the log."""

    issues: dict[str, str] = field(default_factory=dict)

    def report(self, issue: str, text: str) -> None:
        self.issues[issue] = text

    def resolve(self, issue: str) -> None:
        self.issues.pop(issue, None)
