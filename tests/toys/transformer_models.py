"""Small models of transformers with drawn weights, and a batch as its tokenizers give them."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Kind:
    """A model, and where its neurons are.

    Attributes:
        build: makes it.
        layer: the first block of layers.
        hidden: in that, the layers that make the hidden neurons of its MLP.
        back: the layer that reads them.
        attention: the module that holds the heads.
        out: the layer that reads those.
        step: how many heads go together.
    """

    build: object
    layer: str
    hidden: tuple[str, ...]
    back: str
    attention: str
    out: str
    step: int = 1

    def make(self):
        """The model in float64, in eval mode, with weights that matter; and a batch."""
        torch.manual_seed(0)
        model = self.build().double().eval()
        for name, parameter in model.named_parameters():
            mean = float(parameter.ndim == 1 and not name.endswith("bias"))
            nn.init.normal_(parameter, mean, 0.3)
        return model, batch_of(model, 4)


def batch_of(model, samples):
    """Pixels, or words of which some are padding."""
    if model.main_input_name == "pixel_values":
        pixels = torch.randn(samples, 3, 16, 16, dtype=torch.float64)
        return transformers.BatchEncoding({"pixel_values": pixels})
    mask = torch.ones(samples, 6, dtype=torch.long)
    mask[1, 4:] = 0
    words = torch.randint(5, 40, mask.shape) * mask
    return transformers.BatchEncoding({"input_ids": words, "attention_mask": mask})


def spread(model, batch):
    """The model's own call."""
    return model(**batch)


def bert():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**SIZES, **WORDS, num_labels=3)
    )


def minilm():
    """What MiniLM is: a BERT without a head, of which the last hidden states are used."""
    return transformers.BertModel(transformers.BertConfig(**SIZES, **WORDS))


def distilbert():
    config = transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=48, **WORDS, num_labels=3
    )
    return transformers.DistilBertForSequenceClassification(config)


def vit():
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification(config)


def gpt2(kind="GPT2ForSequenceClassification"):
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **WORDS, num_labels=3)
    return getattr(transformers, kind)(config)


def llama(key_value_heads=4):
    config = transformers.LlamaConfig(
        **SIZES, **WORDS, num_key_value_heads=key_value_heads, num_labels=3
    )
    return transformers.LlamaForSequenceClassification(config)


def grouped_llama():
    return llama(2)


_BERT = ("intermediate.dense",), "output.dense", "attention", "attention.output.dense"
_LLAMA = ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "self_attn", "self_attn.o_proj"
KINDS = {
    "BERT": Kind(bert, "bert.encoder.layer.0", *_BERT),
    "MiniLM": Kind(minilm, "encoder.layer.0", *_BERT),
    "DistilBERT": Kind(
        distilbert, "distilbert.transformer.layer.0",
        ("ffn.lin1",), "ffn.lin2", "attention", "attention.out_lin",
    ),
    "ViT": Kind(
        vit, "vit.layers.0", ("mlp.fc1",), "mlp.fc2", "attention", "attention.o_proj"
    ),
    "GPT-2": Kind(
        gpt2, "transformer.h.0", ("mlp.c_fc",), "mlp.c_proj", "attn", "attn.c_proj"
    ),
    "Llama": Kind(llama, "model.layers.0", *_LLAMA),
    "Llama, grouped queries": Kind(grouped_llama, "model.layers.0", *_LLAMA, step=2),
}  # fmt: skip
