"""Networks of torchvision, timm and transformers by name, with drawn weights."""

from typing import Any

import torch
from torch import nn

from ewnprune.model.tracing import Forward, call

TORCHVISION = (
    *("alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "densenet121"),
    *("mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("efficientnet_b0", "regnet_y_400mf", "googlenet", "convnext_tiny", "swin_t", "vit_b_32"),
    *("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"),
)
TIMM = (
    *("resnet10t", "efficientnet_lite0", "mobilenetv3_small_050", "ghostnet_050", "regnetx_002"),
    *("convnext_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224"),
    *("repvgg_a0", "hrnet_w18_small", "dla34", "mobilevit_xxs", "edgenext_xx_small"),
    *("poolformer_s12", "resmlp_12_224", "levit_128s"),
)
WORDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4}
DISTIL = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertConfig", "BertForSequenceClassification", {**SIZES, **WORDS}),
    "RoBERTa": ("RobertaConfig", "RobertaForSequenceClassification", {**SIZES, **WORDS}),
    "DistilBERT": ("DistilBertConfig", "DistilBertForSequenceClassification", {**DISTIL, **WORDS}),
    "ViT": ("ViTConfig", "ViTForImageClassification", {**SIZES, "image_size": 64}),
    "GPT-2": ("GPT2Config", "GPT2ForSequenceClassification", {**GPT2, **WORDS}),
    "Llama": ("LlamaConfig", "LlamaForSequenceClassification", {**SIZES, **WORDS}),
    "Llama, grouped queries": (
        *("LlamaConfig", "LlamaForSequenceClassification"),
        {**SIZES, **WORDS, "num_key_value_heads": 2},
    ),
}
NAMES = [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM]
NAMES += [f"transformers/{n}" for n in TRANSFORMERS]


def make(name: str) -> tuple[nn.Module, Any, Forward]:
    """A network in eval mode, four samples, and how it is called on them."""
    torch.manual_seed(0)
    package, _, kind = name.partition("/")
    images = torch.randn(4, 3, 224, 224) if "vit_b" in kind or "224" in kind else None
    images = torch.randn(4, 3, 96, 96) if images is None else images
    if package == "torchvision":
        import torchvision

        no = {"weights_backbone": None} if "_resnet50" in kind or "_large" in kind else {}
        network = torchvision.models.get_model(kind, weights=None, num_classes=10, **no)
    elif package == "timm":
        import timm

        size = 224 if kind in ("levit_128s",) else images.shape[-1]
        images = torch.randn(4, 3, size, size)
        network = timm.create_model(kind, num_classes=10)
    else:
        return _of_transformers(kind)
    for key, parameter in network.named_parameters():
        if key.endswith("layer_scale"):
            nn.init.ones_(parameter)
        elif not parameter.any():  # heads start as zeros, and would hide all differences
            nn.init.normal_(parameter, std=0.1)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics of one batch
    if norms:
        with torch.no_grad():
            network.train()(images)
    return network.eval(), images, call


def _of_transformers(kind: str) -> tuple[nn.Module, Any, Forward]:
    import transformers

    config, model, sizes = TRANSFORMERS[kind]
    config = getattr(transformers, config)(**sizes, num_labels=10)
    if kind == "ViT":
        batch = {"pixel_values": torch.randn(4, 3, 64, 64)}
    else:
        words = torch.randint(5, 100, (4, 12))
        batch = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    network = getattr(transformers, model)(config).eval()
    return network, batch, lambda network, inputs: network(**inputs)
