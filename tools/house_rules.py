"""The house rules that no linter knows, checked on every file that git tracks or would track. Exits 1 with a list.

A rule is a function from a file to its findings. Exceptions to a rule are listed here, each with its reason.
"""

import ast
import gc
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LONGEST_FILE = 350
LONGEST_FUNCTION = 60

#: Where `except Exception` is allowed: once at each outer edge, so that a bug costs one run or one response.
CATCHES_ALL = {
    "service/worker/runner.py": "one job's bug must not stop the others",
    "service/api/problems.py": "the API's outermost middleware: the caller gets a response and the log the cause",
    "service/receiver/error_boundary.py": "the receiver's outermost edge: a bug costs one response, not the listener",
}

#: Who reads the environment.
READS_ENVIRONMENT = {
    "service/config.py": "the settings",
    "service/cli/main.py": "where the daemon is, for commands that only call its API",
    "service/lab/demo/stage.py": "the demo passes an environment to the processes that it starts",
}

#: Who writes SQL.
HOLDS_SQL = {
    "service/storage/": "it writes the record",
    "service/queries/": "it answers questions about the record",
    "service/audit/": "it exports and proves the record",
    "service/lab/explorer/": "the explorer compares the record with the ground truth and must not trust our own queries",
}

#: Who sends HTTP requests.
SENDS_HTTP = {
    "service/provider/": "it calls the provider",
    "service/simulator/": "it posts callbacks, and shares no code with us",
    "service/client/": "it calls the daemon",
    "service/notify/": "it delivers messages to webhooks",
}

_CLIENTS = ("aiohttp.Client", "aiohttp.client", "aiohttp.request", "urllib.request", "http.client", "httpx", "requests")

#: What the core may import besides the standard library and itself.
CORE_IMPORTS = {"pydantic", "pydantic_core", "orjson", "msgspec"}
CORE_ROOMS = ("service.core", "service.errors", "service.notify_rules")

#: Options and addresses that would tie a file to one package index.
_INDEX = re.compile(
    r"""(?ix) (?: (?:index|trusted|find)-(?:url|host|links) [ =]+ [a-z/]
      | https?:// [^\s/"'<>]* (?: (?:pypi|mirrors?|registry) \. | hosted\. )
      | /simple/(?: $ | ["'\s] ) )"""
)
_MACHINE = re.compile(r"""(?:^|[\s"'=(:`])/(?:root|work|Users|home/[a-z][\w-]*)/""")

#: Words that standard ones have replaced (CONTRIBUTING.md, "Words"). None may be part of an identifier.
FORMER_WORDS = frozenset(
    """hear hears heard hearing keeper keepers shelf permit permits wish wishes wished wishing duty duties poison poisoned
    aside surprise surprises surprised stranger strangers doubt doubted doubtful quiet substitute substitutes trouble
    troubles mistake mistakes grounds misfortune misfortunes sweep sweeps swept looks story stories told dice errand
    errands news meddling fuse park parked settle settles""".split()  # noqa: SIM905  a list of words reads best as words
)
#: Whole identifiers that have been replaced, though their words are fine elsewhere.
FORMER_NAMES = frozenset(
    {"Asked", "Front", "FleetThen", "VmThen", "Pace", "as_kept", "event_queue", "maker", "altered"}
)

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NOQA = re.compile(r"#\s*(?:ruff:\s*)?noqa\b(?P<codes>:\s*[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*)?(?P<reason>.*)")
_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<codes>\[[^\]]+\])?(?P<reason>.*)")
#: SQLAlchemy's operators that take a collection as one parameter for each of its items.
_IN = {"in_", "not_in", "notin_"}
_LONG = re.compile(r"^# longer than 350 lines because \w+", re.MULTILINE)
_SQL = re.compile(r"\s*(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|CREATE|ALTER|DROP|TRUNCATE|LOCK)\s")


@dataclass(frozen=True)
class File:
    """A file of the project; `name` is its path from the root."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @cached_property
    def imports(self) -> tuple[tuple[int, str, str], ...]:
        """Line, module and name of everything imported, at the top or inside a function; no name for `import x`."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [(node.lineno, "." * node.level + (node.module or ""), alias.name) for alias in node.names]
        return tuple(found)

    @cached_property
    def identifiers(self) -> tuple[tuple[int, str], ...]:
        """Line and text of each identifier: names, attributes, definitions, arguments, and the module's own name."""
        found = [(1, Path(self.name).stem)]
        for node in self.nodes:
            for part in ("id", "attr", "name", "arg", "asname"):
                value = getattr(node, part, None)
                if isinstance(value, str):
                    found.append((getattr(node, "lineno", 1), value))
        return tuple(found)

    def within(self, places: dict[str, str] | tuple[str, ...]) -> bool:
        """Whether the file is one of `places`, which end in a slash where they are folders."""
        return any(self.name == place or (place.endswith("/") and self.name.startswith(place)) for place in places)


Findings = Iterator[tuple[int, str]]
Rule = Callable[[File], Findings]


def no_file_is_long(file: File) -> Findings:
    lines = file.text.count("\n")
    if lines > LONGEST_FILE and not _LONG.search(file.text):
        yield 1, f"has {lines} lines; split it, or add the line `# longer than {LONGEST_FILE} lines because ...`"


def no_function_is_long(file: File) -> Findings:
    for node in file.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # From the first line of its body: a command's options are a declaration.
            lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.lineno, f"{node.name} has {lines} lines, and {LONGEST_FUNCTION} are enough"


def everything_is_caught_at_the_edges_only(file: File) -> Findings:
    for node in file.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = {"BaseException"} if node.type is None else set(map(_last_name, _parts(node.type)))
        if "BaseException" in caught:
            yield node.lineno, "catches BaseException, so that cancellation does not work"
        elif "Exception" in caught and not file.within(CATCHES_ALL):
            yield node.lineno, "catches Exception; name what is expected, and leave the rest to the edges"
    for node in file.nodes:
        if isinstance(node, ast.Call) and _last_name(node.func) == "suppress":
            broad = {"Exception", "BaseException"} & set(map(_last_name, node.args))
            if broad:
                yield node.lineno, f"suppresses {broad.pop()}; name what is expected"


def the_environment_is_read_in_one_place(file: File) -> Findings:
    if file.within(READS_ENVIRONMENT):
        return
    for node in file.nodes:
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
            yield node.lineno, "reads the environment, which only service/config.py does"
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            yield node.value.lineno, "reads a variable of the environment, which only service/config.py does"
    for line, module, name in file.imports:
        if module == "os" and name in {"environ", "environb", "getenv"}:
            yield line, "reads the environment, which only service/config.py does"


def sql_stays_in_its_rooms(file: File) -> Findings:
    if file.within(HOLDS_SQL):
        return
    for line, module, name in file.imports:
        package = module.partition(".")[0]
        if package in {"asyncpg", "alembic"} or (package == "sqlalchemy" and module != "sqlalchemy.ext.asyncio"):
            yield line, f"imports {module}{name and f'.{name}'}; only storage, queries and audit hold SQL"
    for node in file.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.match(node.value):
            yield node.lineno, "looks like SQL; only storage, queries and audit hold SQL"


def no_parameter_for_each_row(file: File) -> Findings:
    for node in file.nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _IN):
            continue
        if not (node.args and _is_constant(node.args[0])):
            yield node.lineno, "passes a parameter for each value; use is_any or are_any of storage/arrays.py"


def _is_constant(node: ast.expr) -> bool:
    """Whether an expression is a subquery, or a collection whose size is in the source."""
    if isinstance(node, ast.Call):
        name = _last_name(node.func)
        return name == "select" or (name == "sorted" and all(map(_is_constant, node.args)))
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return not any(isinstance(item, ast.Starred) for item in node.elts)
    name = _last_name(node)
    return bool(name) and name == name.upper()


def requests_are_sent_from_their_rooms(file: File) -> Findings:
    if file.within(SENDS_HTTP):
        return
    for line, module, name in file.imports:
        whole = f"{module}.{name}" if name else module
        # An error that aiohttp's server may raise, too, sends nothing.
        if whole.startswith(_CLIENTS) and not whole.endswith("Error"):
            yield line, f"imports {whole}; only provider/ sends requests"
    for node in file.nodes:
        if isinstance(node, ast.Attribute) and node.attr == "ClientSession":
            yield node.lineno, "uses aiohttp's client; only provider/ sends requests"


def the_core_imports_next_to_nothing(file: File) -> Findings:
    for line, module, _ in file.imports:
        package = module.partition(".")[0]
        ours = any(module == room or module.startswith(f"{room}.") for room in CORE_ROOMS)
        if not ours and package not in sys.stdlib_module_names | CORE_IMPORTS:
            yield line, f"imports {module}; the core decides, with the standard library, pydantic and orjson"
        if package in {"asyncio", "socket", "subprocess", "random", "time"}:
            yield line, f"imports {module}; the core has no I/O, no clock and no randomness of its own"


def every_module_says_what_it_is(file: File) -> Findings:
    # A test file's name and its test names say it.
    if not ast.get_docstring(file.tree) and not file.name.rpartition("/")[2].startswith("test_"):
        yield 1, "has no docstring: what is in here, and what must not be"


def every_exemption_has_a_reason(file: File) -> Findings:
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        for pattern in (_NOQA, _IGNORE):
            found = pattern.search(token.string)
            if found and not found["codes"]:
                yield token.start[0], "silences every rule; name the one you mean"
            elif found and not re.search(r"\w{2,} \w+|\w{4,}", found["reason"]):
                yield token.start[0], "silences a rule without a reason after it"


def nothing_is_bound_to_one_machine(file: File) -> Findings:
    for number, line in enumerate(file.text.splitlines(), 1):
        if _INDEX.search(line):
            yield number, "names a package index; the machine chooses that"
        if _MACHINE.search(line):
            yield number, "holds a path of one machine"


def no_former_name_comes_back(file: File) -> Findings:
    seen = set()
    for line, name in sorted(file.identifiers):
        former = {word.lower() for word in _WORD.findall(name)} & FORMER_WORDS or name.strip("_") in FORMER_NAMES
        if former and name not in seen:
            seen.add(name)
            yield line, f"{name} is a former name; use the standard word"


def no_class_name_occurs_twice(files: Iterable[File]) -> Iterator[str]:
    """A class name means one thing in `service/`. The simulator is apart: it shares no code with the rest."""
    places = defaultdict[str, list[str]](list)
    for file in files:
        if file.name.startswith("service/") and file.name.endswith(".py") and not file.within(("service/simulator/",)):
            for node in file.nodes:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{file.name}:{node.lineno}")
    for name, found in sorted(places.items()):
        if len(found) > 1:
            yield f"{found[-1]}: the class name {name} occurs also at {', '.join(found[:-1])}"


#: Which rules apply to which files, by the beginning of their names.
RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (no_file_is_long, ("service/", "tools/", "bench/")),
    (no_function_is_long, ("service/", "tools/", "bench/")),
    (everything_is_caught_at_the_edges_only, ("service/",)),
    (the_environment_is_read_in_one_place, ("service/",)),
    (sql_stays_in_its_rooms, ("service/",)),
    (no_parameter_for_each_row, ("service/",)),
    (requests_are_sent_from_their_rooms, ("service/",)),
    (the_core_imports_next_to_nothing, ("service/core/",)),
    (no_former_name_comes_back, ("service/", "migrations/")),
    (every_module_says_what_it_is, ("service/", "tools/", "bench/", "tests/", "migrations/")),
    (every_exemption_has_a_reason, ("service/", "tools/", "bench/", "tests/", "migrations/")),
)


def main() -> None:
    gc.disable()  # all of it is kept until the end
    everything = list(files())
    findings = [line for file in everything for line in check(file)]
    findings += [*no_class_name_occurs_twice(everything), *sorted(_exceptions_without_a_file())]
    if findings:
        print("\n".join(findings))
        sys.exit(f"{len(findings)} findings (tools/house_rules.py)")


def files() -> Iterator[File]:
    """Every text file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    for name in sorted(filter(None, listed.split("\0"))):
        path = ROOT / name
        try:
            yield File(name, path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, FileNotFoundError):  # a picture, or a file removed but not yet committed
            continue


def check(file: File) -> Iterator[str]:
    """The findings in a file, as lines to print."""
    for rule in rules_for(file.name):
        for line, finding in rule(file):
            yield f"{file.name}:{line}: {finding}"


def rules_for(name: str) -> Iterator[Rule]:
    yield nothing_is_bound_to_one_machine
    if name.endswith(".py"):
        yield from (rule for rule, places in RULES if name.startswith(places))


def _parts(caught: ast.expr) -> list[ast.expr]:
    return caught.elts if isinstance(caught, ast.Tuple) else [caught]


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _exceptions_without_a_file() -> Iterator[str]:
    for places in (CATCHES_ALL, READS_ENVIRONMENT, HOLDS_SQL, SENDS_HTTP):
        for place in places:
            if not (ROOT / place).exists():
                yield f"tools/house_rules.py:1: {place} has an exception and is not there"


if __name__ == "__main__":
    main()
