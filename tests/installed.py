"""The installed package does its main job; a script that ``.ci/run`` runs with each Python.

    cd EMPTY && PYTHON /path/to/tests/installed.py

It needs the package and what that requires, and nothing else; it writes into the current folder.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import pyrosparse as ps

warnings.simplefilter("error", DeprecationWarning)  # of a newer Python, once all is imported


def main() -> None:
    assert not (Path(ps.__file__).parents[1] / "pyproject.toml").exists(), "these are the sources"
    command = str(Path(sys.executable).with_name("pyrosparse"))
    for recipe in ("beta-bernoulli", "turbo-vbi"):  # gates; and messages, which numba compiles
        words = ["compress", recipe, "--pretrain", "10", "--epochs", "20", "--output", recipe]
        subprocess.run([command, *words, "--quiet"], check=True)
        assert "test accuracy" in Path(recipe, "report.html").read_text()

    data = ps.data.load("digits", validation=0.1)
    small = ps.load("beta-bernoulli/compact.safetensors")
    before, after = small.account.parameters
    accuracy = (small(data.test.x).argmax(1) == data.test.y).float().mean()
    assert accuracy > 0.9 and after < before, (accuracy, before, after)

    # A posterior, by captured steps, and as a tree for ArviZ.
    net = ps.networks.fcn(data.image_shape, hidden=(8,))
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    model = ps.classifier(bnn, n=len(data.train))
    run = ps.fit(model, bnn.guide, data.train, epochs=3, learning_rate=1e-2, progress=False)
    assert run.svi.fallback is None, run.svi.fallback
    tree = ps.to_datatree(bnn, model, data.validation, draws=20)
    assert tree["log_likelihood"]["y"].sizes["datum"] == len(data.validation)
    assert ps.predict(bnn, data.test.x, draws=20).probabilities.shape == (len(data.test), 10)
    ps.compare_models({"a": (bnn, model), "b": (bnn, model)}, data.validation, draws=20)
    python = ".".join(str(part) for part in sys.version_info[:3])
    print(f"wheel: Python {python}, accuracy {accuracy:.3f} with {after} of {before} parameters")


if __name__ == "__main__":
    main()
