"""What setuptools runs to build a wheel: its own command, and the files that lie elsewhere here."""

from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent
# minimixce/FOLDER of a wheel: where its files lie in the repository, and which they are
DATA = {"data": ("data", ("*.json",))}
for name in ("a0", "a1", "a2", "a3"):
    files = ("README.md", "conftest.py", f"test_{name}.py")
    DATA[f"handouts/{name}"] = (f"tutorials/assignments/{name}", files)
DATA["handouts/a4"] = ("tutorials/assignments/a4", ("*.md", "*.json", "run.py"))
DATA["handouts/a4/example"] = ("tutorials/assignments/a4/example", ("*.*",))


class BuildWithData(build_py):
    """build_py that also copies worlds to minimixce/data/ and handouts to minimixce/handouts/.

    An editable install copies nothing: what reads them then reads those of the repository.
    """

    def run(self):
        super().run()
        for source, target in self._data():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode=True):
        """Paths of all files that `run` writes, for setuptools' records."""
        return [
            *super().get_outputs(include_bytecode),
            *(target for _, target in self._data()),
        ]

    def _data(self):
        """(path in the repository, path in the wheel's folder) of every file."""
        if self.editable_mode:
            return []
        found = []
        for folder, (where, patterns) in DATA.items():
            target = Path(self.build_lib, "minimixce", folder)
            by_pattern = [sorted((ROOT / where).glob(pattern)) for pattern in patterns]
            if not all(by_pattern):
                raise FileNotFoundError(f"{where} lacks one of {', '.join(patterns)}")
            paths = sorted(path for paths in by_pattern for path in paths)
            found += [(str(path), str(target / path.name)) for path in paths]
        return found
