"""Files of networks that were changed, damaged or of others: refused in words, and nothing runs."""

import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

import pyrosparse as ps
from pyrosparse.compaction import CompactNet
from pyrosparse.storage import StorageError, load_sparse, save_sparse
from pyrosparse.storage.network_file import FORMAT
from pyrosparse.storage.operations import ATTRIBUTES, METHODS, function
from pyrosparse.storage.weights_file import load_weights
from pyrosparse.util import tensor_file
from tests.compaction.cases import kinds

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


@functools.cache
def saved() -> tuple[str, bytes]:
    """The JSON of a file of ``kinds``, and its tensors as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = ps.save(Path(folder, "a"), kinds())
        with safe_open(path, framework="pt") as file:
            return file.metadata()[FORMAT], path.read_bytes()


def tampered(path: Path, change: Change) -> Path:
    """A file of ``kinds`` with its JSON and its tensors changed."""
    text, tensors = saved()
    content, parts = json.loads(text), load(tensors)
    change(content, parts)
    # With the digest of what it now is: whoever changes a file on purpose can write that as well.
    tensor_file.save(path, parts, {FORMAT: json.dumps(content)})
    return path


def node(content: dict[str, Any], op: str, target: str = "") -> dict[str, Any]:
    """The first operation of that kind."""
    return next(n for n in content["plan"]["nodes"] if n["op"] == op and target in str(n["target"]))


def edit(op: str, old: str = "", /, **entries: Any) -> Change:
    return lambda content, parts: node(content, op, old).update(entries)


def module(name: str, **arguments: Any) -> Change:
    return lambda content, parts: content["plan"]["modules"][name]["arguments"].update(arguments)


def plan(name: str, value: Any) -> Change:
    return lambda content, parts: content["plan"].update({name: value})


def of_tensor(**entries: Any) -> Change:
    return lambda content, parts: content["plan"]["tensors"]["conv.weight"].update(entries)


INJECTED = "__import__('pathlib').Path('injected').touch()"

TAMPERED: dict[str, tuple[Change, str]] = {
    # Things that are not allowed.
    "evaluation": (edit("call_function", "relu", target="builtins.eval"), "builtins.eval"),
    "unpickling": (edit("call_function", "relu", target="torch.load"), "'torch.load', which"),
    "a file": (edit("call_function", "relu", target="torch.from_file"), "torch.from_file"),
    "a caller": (edit("call_function", "relu", target="operator.methodcaller"), "methodcaller"),
    "an import": (edit("call_function", "relu", target="os.system"), "os.system"),
    "a method": (edit("call_method", "mean", target="numpy"), "the method 'numpy'"),
    "a method of all": (edit("call_method", "mean", target="__reduce__"), "'__reduce__'"),
    "a method of a text": (edit("call_method", "mean", args=["text"]), "'mean', which it may not"),
    "a private attribute": (
        edit("call_function", "getattr", args=[{"name": "x"}, "__class__"]), "'__class__'"
    ),
    "an attribute of a text": (edit("call_function", "getattr", args=["x", "shape"]), "may not"),
    "an operation": (edit("call_method", "mean", op="call_python"), "unknown kind 'call_python'"),
    "a class": (
        lambda c, p: c["plan"]["modules"]["conv"].update({"class": "torch.nn.Transformer"}),
        "'torch.nn.Transformer', which a file may not contain",
    ),
    "a class of others": (
        lambda c, p: c["plan"]["modules"]["conv"].update({"class": "os.system"}), "'os.system'"
    ),
    # Python in names.
    "code as input": (edit("placeholder", target=f"x={INJECTED}"), "an input called"),
    "code as a keyword": (
        edit("call_method", "mean", kwargs={f"dim={INJECTED}, keepdim": True}), "an argument called"
    ),
    "code as a result": (
        edit("call_function", "relu", name=f"a = {INJECTED}"), "calls a result|nothing before"
    ),
    "code as a layer": (
        lambda c, p: (
            c["plan"]["modules"].update({f'a"), {INJECTED}, ("': c["plan"]["modules"].pop("bn")}),
            node(c, "call_module", "bn").update(target=f'a"), {INJECTED}, ("'),
        ), "missing|no layer can be called",
    ),
    "code as a tensor": (
        lambda c, p: (
            c["plan"]["same"].update({f'a"), {INJECTED}, ("': "shift"}),
            node(c, "get_attr").update(target=f'a"), {INJECTED}, ("'),
        ), "no layer can be called",
    ),
    "a layer for a method": (
        lambda c, p: (
            c["plan"]["same"].update(forward="shift"),
            node(c, "get_attr").update(target="forward"),
        ), "'forward', which no layer can be called",
    ),
    "the input self": (edit("placeholder", target="self"), "'self', which is not a valid name"),
    "the input class": (edit("placeholder", target="class"), "'class', which is not a valid name"),
    # Graphs that are none.
    "a later operation": (
        edit("call_module", "conv", args=[{"name": "relu"}]), "refers to 'relu', and nothing before"
    ),
    "itself": (edit("call_module", "conv", args=[{"name": "conv"}]), "refers to 'conv'"),
    "two of a name": (edit("call_function", "relu", name="conv"), "calls a result 'conv'"),
    "no output": (lambda c, p: c["plan"]["nodes"].pop(), "does not end with its one output"),
    "two outputs": (
        lambda c, p: c["plan"]["nodes"].insert(3, {**c["plan"]["nodes"][-1], "args": [1]}), "output"
    ),
    "two inputs": (
        lambda c, p: c["plan"]["nodes"].insert(1, {**c["plan"]["nodes"][0], "name": "y"}),
        "two inputs called 'x'",
    ),
    "a default that is a result": (
        edit("placeholder", "scale", args=[{"name": "x"}]), "refers to 'x'"
    ),
    "an unknown layer": (edit("call_module", "conv", target="none"), "'none', which it does not"),
    "an unknown tensor": (edit("get_attr", target="none"), "'none', which it does not"),
    "an argument of no kind": (edit("call_method", "mean", args=[{"eval": "1"}]), "no known kind"),
    "an argument of two kinds": (
        edit("call_method", "mean", args=[{"name": "x", "tuple": []}]), "no known kind"
    ),
    "a constant": (edit("call_method", "mean", args=[{"constant": "os"}]), "no known kind"),
    "a device": (edit("call_method", "mean", args=[{"device": "toaster"}]), "toaster"),
    # Layers and tensors that do not fit.
    "a wide layer": (module("conv", out_channels=4), r"conv.bias has the shape \[3\].*\[4\]"),
    "absurd sizes": (module("conv", in_channels=10**15), "conv.weight has the shape"),
    "more absurd": (module("conv", in_channels=10**30), "cannot be made"),
    "absurd depth": (module("rnn", num_layers=10**9), "1000000000 layers, more than"),
    "a wrong type": (module("conv", in_channels="many"), "cannot be made"),
    "a negative size": (module("conv", kernel_size=-3), "cannot be made|has the shape"),
    "no groups": (module("conv", groups=0), "cannot be made"),
    "an argument": (module("conv", device="cuda"), "takes no argument device"),
    "no bias": (module("conv", bias=False), "does not use what it has as conv.bias"),
    "another tensor": (lambda c, p: p.update({"values:more": torch.ones(1)}), "values:more"),
    "another tensor with a header": (
        lambda c, p: (
            p.update({"values:more": torch.ones(1)}),
            c["tensors"].update(more={"layout": "dense", "shape": [1]}),
        ), "in its plan or in its data, and not in both: more",
    ),
    "another tensor in the plan": (
        lambda c, p: (
            p.update({"values:more": torch.ones(1)}),
            c["tensors"].update(more={"layout": "dense", "shape": [1]}),
            c["plan"]["tensors"].update(more=c["plan"]["tensors"]["shift"]),
        ), "does not use what it has as more",
    ),
    "a layer that nobody calls": (
        lambda c, p: c["plan"]["modules"].update(
            more={"class": "torch.nn.ReLU", "arguments": {}}
        ), "does not use what it has as more",
    ),
    "a missing tensor": (lambda c, p: p.pop("values:conv.weight"), "no 'values' of 'conv.weight'"),
    "a missing entry": (lambda c, p: c["plan"]["tensors"].pop("conv.weight"), "not in both"),
    "missing in both": (
        lambda c, p: (
            p.pop("values:conv.weight"), c["tensors"].pop("conv.weight"),
            c["plan"]["tensors"].pop("conv.weight"),
        ), "the tensor conv.weight is missing",
    ),
    "another shape": (
        lambda c, p: (
            p.update({"values:bn.weight": torch.ones(7)}),
            c["tensors"]["bn.weight"].update(shape=[7], layout="dense"),
        ), r"bn.weight has the shape \[7\], and its layer takes \[3\]",
    ),
    "another type": (
        lambda c, p: p.update({"values:bn.running_var": torch.ones(3).int()}),
        "bn.running_var is a buffer of torch.int32, and its layer takes a buffer of torch.float32",
    ),
    "integers that train": (
        lambda c, p: p.update({"values:conv.bias": torch.ones(3).int()}), "floating point"
    ),
    "a buffer for a parameter": (of_tensor(parameter=False, trained=False), "is a buffer of"),
    "an absurd tensor": (
        lambda c, p: (
            p.pop("values:shift"), p.update(
                {"values:shift": torch.ones(0), "indices:shift": torch.ones(0).int()}
            ),
            c["tensors"].update(shift={"layout": "indices", "shape": [10**12]}),
        ), "1000000000000 elements, more than int32",
    ),
    "an absurd tensor in rectangles": (
        lambda c, p: (
            p.pop("values:shift"), p.update(
                {
                    "values:shift": torch.ones(0), "gaps:shift": torch.ones(0).byte(),
                    "corners:shift": torch.ones(1, 2).byte(),
                    "sizes:shift": torch.full((1, 2), 2**32 - 1, dtype=torch.uint32),
                }
            ),
            c["tensors"].update(shift={"layout": "rectangles", "shape": [10**6, 10**6]}),
        ), "1000000000000 elements, more than int32",
    ),
    "an order": (of_tensor(order=[0, 0, 1, 2]), r"\[0, 0, 1, 2\], which is none"),
    "too short an order": (of_tensor(order=[0]), r"\[0\], which is none"),
    "the same as nothing": (plan("same", {"a.weight": "b.weight"}), "'a.weight' cannot be another"),
    "the same as another": (plan("same", {"conv.bias": "bn.bias"}), "'conv.bias' cannot be"),
    "a mode": (plan("training", ["", "none"]), "no layers none that could be in training"),
    # Not what it should be at all.
    "no account": (plan("account", None), "damaged"),
    "a wrong account": (
        lambda c, p: c["plan"]["account"].update(error="little"), "damaged"
    ),
    "a wrong layer": (
        lambda c, p: c["plan"]["account"]["layers"][0].update(inputs=[1, 2, 3]), "damaged"
    ),
    "no graph": (plan("nodes", 3), "damaged"),
    "no tensors": (lambda c, p: c.pop("tensors"), "damaged"),
    "deep": (edit("placeholder", "scale", args=json.loads("[" * 900 + "]" * 900)), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = TAMPERED[name]
    path = tampered(tmp_path / "a.safetensors", change)
    with pytest.raises(StorageError, match=message) as caught:
        ps.load(path)
    assert str(caught.value).startswith(f"{path} cannot be read")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_unchanged_file_of_these_tests_loads_and_texts_stay_texts(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 4, 4)
    again = ps.load(tampered(tmp_path / "a", lambda content, parts: None))
    assert torch.equal(again(x), kinds()(x))
    text = f"'), {INJECTED}, ('\"\\\n"
    again = ps.load(tampered(tmp_path / "a", edit("placeholder", "scale", args=[text])))
    assert next(n for n in again.graph.nodes if n.target == "scale_1").args == (text,)
    assert not Path("injected").exists()


def paths(value: Any) -> list[tuple[Any, ...]]:
    """The places of all values in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, item in items:
        found.append((key,))
        if isinstance(item, (dict, list)):
            found += [(key, *rest) for rest in paths(item)]
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "tuple", "slice", "dict", "op"]), inner, max_size=2
        )
    ),
    max_leaves=3,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_of_the_json_is_refused_in_words_or_loads(data: st.DataObject) -> None:
    def change(content: dict[str, Any], parts: dict[str, Tensor]) -> None:
        *way, last = data.draw(st.sampled_from(paths(content)))
        at: Any = content
        for key in way:
            at = at[key]
        if data.draw(st.booleans()):
            at[last] = data.draw(JSON)
        else:
            del at[last]

    with tempfile.TemporaryDirectory() as folder:
        path = tampered(Path(folder, "a"), change)
        try:
            assert isinstance(ps.load(path), CompactNet)
        except StorageError as error:
            assert "cannot be read" in str(error)


def test_foreign_and_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ps.load(path)
    for write in (save_file, lambda tensors, to: save_sparse(to, tensors)):
        write({"w": torch.ones(3)}, path)
        with pytest.raises(StorageError, match="not one of 'pyrosparse network 1'"):
            ps.load(path)
    torch.save({"w": torch.ones(3)}, path)
    with pytest.raises(StorageError, match="not a safetensors file"):
        ps.load(path)
    content = ps.save(path, kinds()).read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(StorageError, match="truncated"):
            ps.load(path)


def test_files_of_weights_say_what_a_network_is(tmp_path: Path) -> None:
    path = ps.save(tmp_path / "a.safetensors", kinds())
    with pytest.raises(StorageError, match=r"ps.load\(path\); its state_dict\(\)"):
        load_weights(path)
    with pytest.raises(StorageError, match="not one of"):
        load_sparse(path)


def test_nothing_dangerous_is_in_the_lists() -> None:
    for name in ("load", "save", "from_file", "compile", "hub", "jit", "ops", "classes", "_C"):
        with pytest.raises(StorageError):
            function(f"torch.{name}")
    for name in ("attrgetter", "itemgetter", "methodcaller", "call", "index", "setitem"):
        with pytest.raises(StorageError):
            function(f"operator.{name}")
    assert not any(name.startswith("_") or name.endswith("_") for name in METHODS)
    assert not any(name.startswith("_") for name in ATTRIBUTES)
    assert not METHODS & {"numpy", "tolist", "item", "apply", "map", "backward", "share_memory"}


def test_many_inputs_and_layers_are_read_in_linear_time(tmp_path: Path) -> None:
    def many(count: int) -> Change:
        def change(content: dict[str, Any], parts: dict[str, Tensor]) -> None:
            first = node(content, "placeholder", "scale")
            more = [
                {"op": "placeholder", "name": f"p{i}", "target": f"p{i}", "args": [0], "kwargs": {}}
                for i in range(count)
            ]
            place = content["plan"]["nodes"].index(first)
            content["plan"]["nodes"][place:place] = more

        return change

    def seconds(count: int) -> float:
        path = tampered(tmp_path / str(count), many(count))
        start = time.process_time()
        with contextlib.suppress(StorageError):  # an input without a default behind others
            ps.load(path)
        return time.process_time() - start

    seconds(10)
    assert seconds(16_000) < 30 * seconds(2_000)  # 64 where it is quadratic


def test_a_tensor_in_very_many_layers_is_refused(tmp_path: Path) -> None:
    name = ".".join("a" * 10_000)
    path = tampered(tmp_path / "a", lambda c, p: c["plan"]["same"].update({name: "shift"}))
    with pytest.raises(StorageError, match="10000 layers deep"):
        ps.load(path)
