"""Tiny random models with the numbers that PyTorch and transformers compute with them, for the tests beside this file.

Each folder under ``golden/`` is what ``save_pretrained`` writes, and ``expected.safetensors`` beside it: fixed tokens,
their outputs, the loss and its gradients. ``golden/peft`` is an adapter of the package ``peft`` after one step of SGD,
as its users save it, with what a client returns of the next step. Written again, from the root of the repository, by

    python -m venv /somewhere && /somewhere/bin/pip install torch transformers peft
    /somewhere/bin/python tests/language/make_golden.py

with torch 2.14, transformers 5.24 and peft 0.21 the last time. Nothing else of the suite needs these packages.
"""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
VOCABULARY, CLASSES, LENGTHS = 64, 3, (9, 6)
STEP = 0.5
SMALL = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
GPT2 = {"vocab_size": VOCABULARY, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def models():
    """Class name of transformers, configuration, by the name of the folder."""
    return {
        "llama": ("LlamaForCausalLM", SMALL | {"tie_word_embeddings": True}),
        "llama3": ("LlamaForCausalLM", SMALL | {"rope_parameters": LLAMA3, "head_dim": 8, "attention_bias": True}),
        "qwen2": ("Qwen2ForCausalLM", SMALL | {"use_sliding_window": False, "sliding_window": 4}),
        "mistral": ("MistralForCausalLM", SMALL | {"sliding_window": 32}),
        "gpt2": ("GPT2LMHeadModel", GPT2),
        "llama_classes": ("LlamaForSequenceClassification", SMALL | {"num_labels": CLASSES}),
        "gpt2_classes": ("GPT2ForSequenceClassification", GPT2 | {"num_labels": CLASSES}),
    }


def build(kind, options):
    """A model with random weights, biases and scales too, so that none is there for nothing."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, kind).config_class(**options, **ENDS))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.1 * noise if is_scale(parameter) else 0.2 * noise)
    return model.eval()


def is_scale(parameter):
    """Norms start from ones."""
    return parameter.ndim == 1 and bool((parameter == 1).all())


def batch():
    """Tokens (2, 9) with padding at the end and the mask of those that are none."""
    import torch

    tokens = torch.from_numpy(draw(3, VOCABULARY, (2, max(LENGTHS))))
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return tokens * mask, mask


def draw(low, high, shape):
    """The same integers on every machine."""
    import numpy as np

    return np.random.default_rng(7).integers(low, high, shape)


def outputs(model, is_class):
    """What the model gives for the batch, and its own loss."""
    import torch

    tokens, mask = batch()
    labels = torch.tensor([2, 0]) if is_class else torch.where(mask, tokens, -100)
    return model(input_ids=tokens, attention_mask=mask.long(), labels=labels)


def gradients(model):
    """By name, those of trained tensors."""
    found = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def write_model(name, kind, options):
    """One folder."""
    from safetensors.torch import save_file

    model, is_class = build(kind, options), "classes" in name
    result = outputs(model, is_class)
    result.loss.backward()
    tokens, mask = batch()
    expected = {"tokens": tokens, "mask": mask, "logits": result.logits.detach(), "loss": result.loss.detach()}
    expected |= {f"grad/{name}": gradient for name, gradient in gradients(model).items()}
    model.save_pretrained(GOLDEN / name)
    (GOLDEN / name / "generation_config.json").unlink(missing_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in expected.items()}, GOLDEN / name / "expected.safetensors")


def write_adapter(name, base, targets):
    """An adapter of one of the models after a step, as sent, and the next step, as it comes back."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    one = f"1.{targets[-1]}"
    options = LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", use_rslora=base == "gpt2",
        fan_in_fan_out=base == "gpt2", rank_pattern={one: 2}, alpha_pattern={one: 5},
    )  # fmt: skip
    model = get_peft_model(build(*models()[base]), options).eval()
    outputs(model, is_class=False).loss.backward()
    take_step(model)
    model.save_pretrained(GOLDEN / name)
    sent = {key: tensor.clone() for key, tensor in get_peft_model_state_dict(model).items()}
    result = outputs(model, is_class=False)
    result.loss.backward()
    gradient = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    take_step(model)
    after = {f"client/{key}": tensor.contiguous() for key, tensor in get_peft_model_state_dict(model).items()}
    update = {f"grad/{key}": tensor for key, tensor in gradient.items()}
    save_file(after, GOLDEN / name / "after.safetensors", {"kind": "weights", "lr": str(STEP)})
    save_file(update, GOLDEN / name / "gradient.safetensors", {"kind": "gradient"})
    expected = {"logits": result.logits.detach().contiguous(), "loss": result.loss.detach()}
    expected |= {f"sent/{key}": tensor.contiguous() for key, tensor in sent.items()}
    save_file(expected, GOLDEN / name / "expected.safetensors")
    (GOLDEN / name / "README.md").unlink(missing_ok=True)


def write_pickled(name, base):
    """A model as PyTorch itself saves it, in half precision and with the output layer beside the embedding."""
    import torch

    (GOLDEN / name).mkdir(exist_ok=True)
    torch.save(build(*models()[base]).to(torch.bfloat16).state_dict(), GOLDEN / name / "pytorch_model.bin")
    (GOLDEN / name / "config.json").write_bytes((GOLDEN / base / "config.json").read_bytes())


def take_step(model):
    """One of SGD."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= STEP * parameter.grad
    model.zero_grad()


if __name__ == "__main__":
    for name, (kind, options) in models().items():
        write_model(name, kind, options)
    write_pickled("llama_bin", "llama")
    write_adapter("peft", "llama", ["self_attn.q_proj", "self_attn.v_proj"])
    write_adapter("peft_gpt2", "gpt2", ["attn.c_attn", "attn.c_proj", "mlp.c_proj", "mlp.c_fc"])
