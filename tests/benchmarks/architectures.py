"""How much ``ps.compact`` takes of architectures as people have them, beside Torch-Pruning.

    python -m tests.benchmarks.architectures [names]
    python -m tests.benchmarks.architectures --onnx [names]

Each is tiny, in float64, with random weights. Of every hidden layer that is named half of what
enters the next layer is zeroed, and of every attention half of the heads. Then the network is
compacted, compared with the original at other batch sizes and lengths or sides, saved and loaded.
With ``--onnx`` the compact network is instead written to an ONNX file in float32, which onnxruntime
runs at other batch sizes.
Torch-Pruning, where it is installed (``pip install torch-pruning --no-deps``), is told to remove
the same inputs.
"""

from __future__ import annotations

import copy
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.compaction.in_place.called import Called, tensors_in
from pyrosparse.compaction.in_place.layers import is_transposed_linear, weight_dim

IMAGES = [(2, 3, 32, 32), (3, 3, 32, 32), (1, 3, 32, 32)]
LARGER = [(2, 3, 64, 64), (3, 3, 64, 64), (1, 3, 64, 64)]
FULL = [(2, 3, 224, 224), (1, 3, 224, 224)]
SIDES = [*IMAGES, (2, 3, 48, 48)]
LIMIT = 15  # seconds for Torch-Pruning
ONNX_LIMIT = 90
TOKENS = [(2, 7), (3, 9), (1, 5)]


@dataclass
class Case:
    """make: builds it; zero: of layers, by a pattern of their names, how wide the blocks are of
    which every other is zeroed at the input; sizes: of the inputs, the example's first."""

    make: Callable[[], nn.Module]
    zero: dict[str, int]
    sizes: list[tuple[int, ...]]
    names: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def inputs(self, size: tuple[int, ...]) -> Any:
        generator = torch.Generator().manual_seed(sum(size))
        if "input_ids" in self.names:
            drawn: Tensor = torch.randint(3, 50, size, generator=generator)
        else:
            drawn = torch.randn(size, generator=generator).double()
        return (drawn,) if not self.names else {name: drawn for name in self.names}


def hugging_face(name: str, config: str, zero: dict[str, int], **options: Any) -> Case:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**options))

    images = "image_size" in options
    names = ("pixel_values",) if images else ("input_ids",)
    if name.startswith(("T5", "Bart")):
        names = ("input_ids", "decoder_input_ids")
    sizes = [(2, 3, 16, 16), (3, 3, 16, 16), (1, 3, 16, 16)] if images else TOKENS
    return Case(make, zero, sizes, names)


def torchvision_model(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        module = torchvision.models
        return getattr(module, kind)(**options)

    return make


def timm_model(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(kind, **options)

    return make


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def residual() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=32, patch_size=8, embed_dim=32, num_blocks=2, num_classes=5)


def dense() -> nn.Module:
    from torchvision.models.densenet import DenseNet

    return DenseNet(8, (2, 2, 2), 16, num_classes=5)


def inverted() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1, 1, 1), MBConvConfig(4, 3, 2, 8, 16, 2, 1, 1)]
    return EfficientNet(blocks, 0.0, num_classes=5, last_channel=32)


def convolutional() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)


def regular() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(
        depth=2, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25
    )
    return RegNet(blocks, num_classes=5)


def shuffling() -> nn.Module:
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    return ShuffleNetV2([1, 2, 1], [12, 16, 24, 32, 48], num_classes=5)


BERT = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 40,
}  # fmt: skip
LLAMA = {**BERT, "num_key_value_heads": 2, "head_dim": 8}
BERT_ZERO = {r"attention\.output\.dense$": 8, r"\d\.output\.dense$": 1}
LLAMA_ZERO = {r"o_proj$": 16, r"down_proj$": 1}
VIT = {"num_heads": 4, "num_classes": 5}
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, **VIT}
STAGES = {"depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4), "num_classes": 5}
WIDTHS = (16, 16, 32, 32)
TIMM_ZERO = {r"attn\.proj$": 8, r"fc2$": 1}
CASES: dict[str, Case] = {
    "BERT": hugging_face("BertModel", "BertConfig", BERT_ZERO, **BERT),
    "RoBERTa": hugging_face("RobertaModel", "RobertaConfig", BERT_ZERO, **BERT),
    "ELECTRA": hugging_face("ElectraModel", "ElectraConfig", BERT_ZERO, embedding_size=32, **BERT),
    "DeBERTa-v2": hugging_face(
        "DebertaV2Model", "DebertaV2Config", BERT_ZERO, relative_attention=True,
        pos_att_type=["p2c", "c2p"], **BERT,
    ),
    "DistilBERT": hugging_face(
        "DistilBertModel", "DistilBertConfig", {r"out_lin$": 8, r"lin2$": 1}, vocab_size=60,
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40,
    ),
    "GPT-2": hugging_face(
        "GPT2LMHeadModel", "GPT2Config", {r"attn\.c_proj$": 8, r"mlp\.c_proj$": 1}, vocab_size=60,
        n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=1, eos_token_id=2,
    ),
    "OPT": hugging_face(
        "OPTModel", "OPTConfig", {r"out_proj$": 8, r"fc2$": 1}, vocab_size=60, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, max_position_embeddings=40,
        word_embed_proj_dim=32,
    ),
    "GPT-NeoX": hugging_face(
        "GPTNeoXModel", "GPTNeoXConfig", {r"attention\.dense$": 8, r"dense_4h_to_h$": 1}, **BERT
    ),
    "Llama": hugging_face("LlamaForCausalLM", "LlamaConfig", LLAMA_ZERO, **LLAMA),
    "Mistral": hugging_face("MistralModel", "MistralConfig", LLAMA_ZERO, **LLAMA),
    "Qwen2": hugging_face("Qwen2Model", "Qwen2Config", LLAMA_ZERO, **LLAMA),
    "Qwen3": hugging_face("Qwen3Model", "Qwen3Config", LLAMA_ZERO, **LLAMA),
    "Gemma 2": hugging_face("Gemma2Model", "Gemma2Config", LLAMA_ZERO, **LLAMA),
    "Phi-3": hugging_face("Phi3Model", "Phi3Config", LLAMA_ZERO, pad_token_id=0, **LLAMA),
    "T5": hugging_face(
        "T5Model", "T5Config", {r"Attention\.o$": 8, r"\.wo$": 1}, vocab_size=60, d_model=32,
        d_kv=8, d_ff=64, num_layers=2, num_heads=4,
    ),
    "BART": hugging_face(
        "BartModel", "BartConfig", {r"out_proj$": 8, r"fc2$": 1}, vocab_size=60, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=40,
    ),
    "ViT (Hugging Face)": hugging_face(
        "ViTForImageClassification", "ViTConfig",
        {r"attention\.output\.dense$|o_proj$": 8, r"\d\.output\.dense$|fc2$|down_proj$": 1},
        image_size=16, patch_size=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    ),
    "DINOv2": hugging_face(
        "Dinov2Model", "Dinov2Config",
        {r"attention\.output\.dense$|o_proj$": 8, r"mlp\.fc2$": 1}, image_size=16, patch_size=4,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2,
    ),
    "nn.TransformerEncoder": Case(
        encoder, {r"out_proj$": 8, r"linear2$": 1}, [(2, 7, 32), (3, 9, 32), (1, 5, 32)]
    ),
    "ViT (torchvision)": Case(
        torchvision_model(
            "VisionTransformer", image_size=32, patch_size=8, num_layers=2, hidden_dim=32,
            mlp_dim=64, **VIT,
        ),
        {r"out_proj$": 8, r"mlp\.3$": 1}, IMAGES,
    ),
    "Swin (torchvision)": Case(
        torchvision_model(
            "SwinTransformer", patch_size=[4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 4],
            window_size=[4, 4], mlp_ratio=2, num_classes=5,
        ),
        {r"attn\.proj$": 8, r"mlp\.3$": 1}, SIDES,
    ),
    "ResNet (torchvision)": Case(
        residual, {r"layer\d\.\d\.conv2$": 1}, SIDES
    ),
    "MobileNetV2": Case(
        torchvision_model("mobilenet_v2", num_classes=5, width_mult=0.25), {r"conv\.2$": 1}, SIDES
    ),
    "ShuffleNetV2": Case(shuffling, {r"branch2\.5$": 1}, SIDES),
    "DenseNet": Case(dense, {r"denselayer\d\.conv2$": 1}, SIDES),
    "SqueezeNet": Case(
        torchvision_model("squeezenet1_1", num_classes=5), {r"expand\dx\d$": 1}, SIDES
    ),
    "GoogLeNet": Case(
        torchvision_model("googlenet", num_classes=5, aux_logits=False, init_weights=False),
        {r"branch[23]\.1\.conv$": 1}, SIDES,
    ),
    "MNASNet": Case(torchvision_model("mnasnet0_5", num_classes=5), {r"layers\.6$": 1}, SIDES),
    "EfficientNet (torchvision)": Case(
        inverted, {r"block\.[23]\.0$": 1, r"fc2$": 1}, SIDES
    ),
    "ConvNeXt (torchvision)": Case(convolutional, {r"block\.5$": 1}, SIDES),
    "RegNet (torchvision)": Case(regular, {r"f\.c\.0$": 1, r"se\.fc2$": 1}, SIDES),
    "MobileNetV3 (torchvision)": Case(
        torchvision_model("mobilenet_v3_small", num_classes=5, width_mult=0.5),
        {r"\d\.block\.3\.0$": 1, r"block\.2\.fc2$": 1}, SIDES,
    ),
    "ViT (timm)": Case(
        timm_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, mlp_ratio=2,
            **VIT,
        ),
        {r"attn\.proj$": 8, r"fc2$": 1}, IMAGES,
    ),
    "Swin (timm)": Case(
        timm_model(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16,
            depths=(1, 1), num_heads=(2, 4), mlp_ratio=2, num_classes=5,
        ),
        {r"attn\.proj$": 8, r"fc2$": 1}, IMAGES,
    ),
    "ConvNeXt (timm)": Case(
        timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=5),
        {r"mlp\.fc2$": 1}, SIDES,
    ),
    "MobileNetV3 (timm)": Case(
        timm_model("mobilenetv3_small_050", num_classes=5),
        {r"conv_pwl$": 1}, SIDES,
    ),
    "RegNet (timm)": Case(
        timm_model("regnetx_002", num_classes=5), {r"b\d\.conv3\.conv$": 1}, SIDES
    ),
    "MLP-Mixer (timm)": Case(
        mixer,
        {r"fc2$": 1}, IMAGES,
    ),
    "BEiT": Case(timm_model("beit_base_patch16_224", **SMALL_VIT), TIMM_ZERO, IMAGES),
    "EVA-02": Case(timm_model("eva02_tiny_patch14_224", **SMALL_VIT), TIMM_ZERO, IMAGES),
    "CaiT": Case(timm_model("cait_xxs24_224", **SMALL_VIT), TIMM_ZERO, IMAGES),
    "XCiT": Case(
        timm_model("xcit_nano_12_p16_224", cls_attn_layers=1, **{**SMALL_VIT, "patch_size": 16}),
        TIMM_ZERO, IMAGES,
    ),
    "Swin V2": Case(
        timm_model(
            "swinv2_tiny_window8_256", img_size=32, window_size=4, embed_dim=16, depths=(1, 1),
            num_heads=(2, 4), num_classes=5,
        ),
        TIMM_ZERO, IMAGES,
    ),
    "DaViT": Case(
        timm_model(
            "davit_tiny", embed_dims=(16, 32), depths=(1, 1), num_heads=(2, 4), window_size=4,
            num_classes=5,
        ),
        TIMM_ZERO, LARGER,
    ),
    "PVT v2": Case(timm_model("pvt_v2_b0", embed_dims=WIDTHS, **STAGES), TIMM_ZERO, LARGER),
    "Twins": Case(
        timm_model(
            "twins_svt_small", img_size=64, embed_dims=WIDTHS, **{**STAGES, "depths": (2, 2, 2, 2)}
        ),
        TIMM_ZERO, LARGER,
    ),
    "TinyViT": Case(
        timm_model("tiny_vit_5m_224", embed_dims=WIDTHS, window_sizes=(4, 4, 4, 4), **STAGES),
        {**TIMM_ZERO, r"conv3\.conv$": 1}, FULL,
    ),
    "LeViT": Case(
        timm_model(
            "levit_128s", img_size=64, embed_dim=(32, 32, 32), num_heads=(4, 4, 4),
            depth=(1, 1, 1), key_dim=8, num_classes=5,
        ),
        {r"mlp\.ln2\.linear$": 1, r"attn\.proj\.ln\.linear$": 16}, LARGER,
    ),
    "Hiera": Case(
        timm_model(
            "hiera_tiny_224", img_size=64, embed_dim=16, stages=(1, 1), num_heads=1, q_pool=1,
            mask_unit_size=(4, 4), num_classes=5,
        ),
        {r"fc2$": 1}, LARGER,
    ),
    "EfficientFormer": Case(
        timm_model(
            "efficientformer_l1", depths=(1, 1, 1, 2), embed_dims=(8, 16, 16, 32), num_classes=5
        ),
        {r"token_mixer\.proj$": 128, r"fc2$": 1}, FULL,
    ),
    "MobileViT": Case(
        timm_model("mobilevit_xxs", num_classes=5),
        {
            r"stages\.2.*attn\.proj$": 16, r"stages\.3.*attn\.proj$": 20,
            r"stages\.4.*attn\.proj$": 24, r"fc2$": 1, r"conv3_1x1\.conv$": 1,
        },
        LARGER,
    ),
    "EdgeNeXt": Case(
        timm_model(
            "edgenext_xx_small", dims=(8, 16, 16, 32), depths=(1, 2, 1, 1), heads=(2, 2, 2, 2),
            num_classes=5,
        ),
        {r"fc2$": 1}, LARGER,
    ),
    "FastViT": Case(
        timm_model(
            "fastvit_t8", layers=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32), num_classes=5
        ),
        {r"fc2$": 1}, LARGER,
    ),
    "InceptionNeXt": Case(
        timm_model("inception_next_tiny", dims=(16, 32), depths=(1, 1), num_classes=5),
        {r"fc2$": 1}, LARGER,
    ),
    "EfficientNet (timm)": Case(
        timm_model("efficientnet_b0", num_classes=5), {r"conv_pwl$": 1}, SIDES
    ),
    "MobileNetV4": Case(
        timm_model("mobilenetv4_conv_small", num_classes=5), {r"pw_proj\.conv$": 1}, SIDES
    ),
    "GhostNet": Case(
        timm_model("ghostnet_050", num_classes=5), {r"ghost2\.primary_conv\.0$": 1}, SIDES
    ),
    "DLA": Case(
        timm_model("dla34", channels=(8, 8, 8, 16, 16, 16), num_classes=5), {r"conv2$": 1}, LARGER
    ),
}  # fmt: skip


def planted(case: Case) -> tuple[nn.Module, dict[str, list[int]]]:
    """The network with random weights and zeros, and the inputs of layers that are zeroed."""
    torch.manual_seed(0)
    net = case.make().double().eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            spread = float(parameter.detach().std())
            parameter.data.mul_(5 if spread < 0.05 else 1)
            if not spread:  # torchvision's heads begin with zeros
                parameter.data.normal_(0, 0.1)
        else:
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    zeroed = {}
    for name, module in net.named_modules():
        width = next((w for pattern, w in case.zero.items() if re.search(pattern, name)), None)
        weight = getattr(module, "weight", None)
        if width is None or not isinstance(weight, Tensor) or weight.dim() < 2:
            continue
        dim = weight_dim(module, True)
        gone = [j for j in range(weight.shape[dim]) if j // width % 2]
        if gone:
            weight.data.index_fill_(dim, torch.tensor(gone), 0)
            zeroed[name] = gone
    return net, zeroed


def call(net: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return Called(net)(*((inputs,) if isinstance(inputs, dict) else inputs))


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    pairs = zip(first, second, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-3)) for a, b in pairs)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def by_torch_pruning(case: Case, net: nn.Module, zeroed: dict[str, list[int]]) -> str:
    """Its parameters on the same inputs; "-" where it is not installed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "-"
    small = copy.deepcopy(net)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        example = case.inputs(case.sizes[0])
        graph = tp.DependencyGraph().build_dependency(
            small, example, output_transform=lambda out: list(tensors_in(out))
        )
        for name, gone in zeroed.items():
            layer = small.get_submodule(name)
            prune = tp.function.PrunerBox[
                tp.ops.OPTYPE.LINEAR if isinstance(layer, nn.Linear) else tp.ops.OPTYPE.CONV
            ].prune_in_channels
            if is_transposed_linear(layer):
                continue
            group = graph.get_pruning_group(layer, prune, gone)
            if graph.check_pruning_group(group):
                group.prune()
    except TimeoutError:
        return "no end"
    except Exception as error:
        return f"fails ({type(error).__name__})"
    finally:
        signal.alarm(0)
    count = sum(p.numel() for p in small.parameters())
    try:
        worst = max(difference(call(net, x), call(small, x)) for x in map(case.inputs, case.sizes))
    except Exception:
        return f"{count:,}, does not run"
    return f"{count:,}" if worst < 1e-9 else f"{count:,}, differs by {worst:.0e}"


def by_onnx(case: Case, small: nn.Module, dynamic: dict[int, str]) -> str:
    """How far onnxruntime's outputs are from the network's, at other batch sizes.

    dynamic: the dimensions that vary beside the batch, as of ``ps.export_onnx``."""
    import onnxruntime

    def single(x: Tensor) -> Tensor:
        return x.float() if x.is_floating_point() else x

    def inputs(size: tuple[int, ...]) -> Any:
        found = case.inputs(size)
        if isinstance(found, dict):
            return {name: single(x) for name, x in found.items()}
        return tuple(map(single, found))

    net = copy.deepcopy(small).float()
    sizes = [size for size in case.sizes if dynamic or size[1:] == case.sizes[0][1:]]
    sizes += [(5, *case.sizes[0][1:])]
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(ONNX_LIMIT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = ps.export_onnx(
                net, f"{folder}/small.onnx", inputs(case.sizes[0]), dynamic=dynamic
            )
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            worst = 0.0
            for size in sizes:
                x = inputs(size)
                given = list(x.values()) if isinstance(x, dict) else list(x)
                names = [one.name for one in session.get_inputs()]
                arrays = {name: one.numpy() for name, one in zip(names, given, strict=True)}
                found = [torch.from_numpy(one) for one in session.run(None, arrays)]
                worst = max(worst, difference(call(net, x), found))
        return f"{worst:.0e}"
    except TimeoutError:
        return f"not within {ONNX_LIMIT} s"
    except Exception as error:
        print(error, file=sys.stderr)
        return f"no ({type(error).__name__})"
    finally:
        signal.alarm(0)


def onnx_row(name: str) -> str:
    case = CASES[name]
    net, _ = planted(case)
    small = ps.compact(net, None, case.inputs(case.sizes[0]))
    start = time.perf_counter()
    told = by_onnx(case, small, {})
    longer = by_onnx(case, small, {1: "length"}) if len(case.sizes[0]) == 2 else ""
    print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return f"| {name} | {told} | {longer} |"


def rows(names: list[str], row: Callable[[str], str]) -> Iterator[str]:
    for name in names or CASES:
        try:
            yield row(name)
        except Exception as error:
            traceback.print_exc()
            yield f"| {name} | fails: {error} |"


def row(name: str) -> str:
    case = CASES[name]
    net, zeroed = planted(case)
    start = time.perf_counter()
    small = ps.compact(net, None, case.inputs(case.sizes[0]))
    seconds = time.perf_counter() - start
    worst = max(difference(call(net, x), call(small, x)) for x in map(case.inputs, case.sizes))
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = ps.save(f"{folder}/small.safetensors", small)
            again = ps.load(path, into=net)
            x = case.inputs(case.sizes[-1])
            saved = "yes" if difference(call(small, x), call(again, x)) == 0 else "differs"
        except ValueError as error:
            saved = f"no ({error})"
    before, after = small.account.parameters
    way = "in place" if small.account.kept_class else "traced"
    other = by_torch_pruning(case, net, zeroed)
    print(f"{name}: {seconds:.1f} s, {small.account.barriers}", file=sys.stderr)
    return f"| {name} | {before:,} | {after:,} | {other} | {way} | {worst:.0e} | {saved} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "--onnx" in sys.argv:
        print("| network | any batch | any batch and length |\n|:--|--:|--:|")
        for line in rows([name for name in sys.argv[1:] if name != "--onnx"], onnx_row):
            print(line, flush=True)
        raise SystemExit
    print("| network | parameters | compact | Torch-Pruning | way | difference | saved |")
    print("|:--|--:|--:|--:|:--|--:|:--|")
    for line in rows(sys.argv[1:], row):
        print(line, flush=True)
