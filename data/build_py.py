"""What setuptools runs to build a wheel: its own command, and the worlds of this folder."""

from pathlib import Path

from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithWorlds(build_py):
    """build_py that also copies data/*.json to minimixce/data/.

    An editable install copies nothing: `minimixce.worlds.stories` then reads data/ itself.
    """

    def run(self):
        super().run()
        for source, target in self._worlds():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode=True):
        """Paths of all files that `run` writes, for setuptools' records."""
        return [
            *super().get_outputs(include_bytecode),
            *(target for _, target in self._worlds()),
        ]

    def _worlds(self):
        """(path in the repository, path in the wheel's folder) of every world."""
        if self.editable_mode:
            return []
        folder = Path(self.build_lib, "minimixce", "data")
        return [(str(path), str(folder / path.name)) for path in sorted(HERE.glob("*.json"))]
