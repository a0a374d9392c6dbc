"""Names that differ between what was sent and what came back: aligned where that is no guess, refused where it is."""

from __future__ import annotations

import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.make import make_update, pair_files
from spear_jax.update.model_file import ModelFile

SIZES = (6, 5, 5, 3)


def net(seed=0, prefix="", *, inside="", suffix=""):
    """Three layers ``<prefix><index><inside>.weight<suffix>``, the upper two of them alike in shape to none."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for index, (n, m) in enumerate(zip(SIZES, SIZES[1:], strict=False)):
        tensors[f"{prefix}{index}{inside}.weight{suffix}"] = rng.normal(size=(m, n))
        tensors[f"{prefix}{index}{inside}.bias{suffix}"] = rng.normal(size=m)
    return tensors


def pairs_in_order(sent, back, count=6):
    names = pair_files(ModelFile(sent, None), ModelFile(back, None), kind="weights")
    assert list(names.items())[:count] == list(zip(list(back)[:count], list(sent)[:count], strict=True))
    assert len(names) == count


ALIKE = {
    "opacus": ("", "_module."),
    "one in another": ("module.", "_module.module."),
    "compiled": ("net.", "net._orig_mod."),
    "sharded": ("", "_fsdp_wrapped_module."),
    "lightning": ("", "model."),
    "an attribute of its own": ("", "net."),
    "two deep": ("", "backbone.body."),
    "on the sent side": ("encoder.", ""),
    "other attributes": ("net.", "classifier."),
    "slashes": ("a/b/", "a.b."),
    "flax": ("params/", ""),
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_wraps_a_model_does_not_count(case):
    first, second = ALIKE[case]
    pairs_in_order(net(0, first), net(1, second))


def test_wrappers_inside_a_name_and_what_tensorflow_puts_behind_it():
    pairs_in_order(net(0), net(1, inside=".module"))
    pairs_in_order(net(0), net(1, "base_model.model.", inside=".base_layer"))
    pairs_in_order(net(0), net(1, suffix=":0"))
    only_one = {name.replace("1.", "1._orig_mod."): tensor for name, tensor in net(1).items()}
    pairs_in_order(net(0), only_one)


def test_what_only_one_side_has_is_left_out_and_named():
    extra = {"criterion.weight": np.ones(3), "metric.total": np.ones(())}
    for sent, back in ((net(0), net(1, "net.") | extra), (net(0, "net.") | extra, net(1))):
        pairs_in_order(sent, back)
    update = make_update(ModelFile(net(0), None), ModelFile(net(1, "net.") | extra, None))
    assert update.metadata["left_out"] == "criterion.weight, metric.total came back without having been sent"
    assert len(update.client_tensors) == 6


def test_of_several_copies_the_one_that_changed_is_what_came_back():
    pairs_in_order(net(0), net(1, "local.") | net(0, "global."))
    with pytest.raises(UpdateError, match=r"0\.weight may be (a|b)\.0\.weight or (a|b)\.0\.weight; save"):
        pairs_in_order(net(0), net(1, "a.") | net(2, "b."))
    pairs_in_order(net(0), net(1, "net.") | net(2, "ema_net."))


def test_gradients_under_other_names_and_beside_weights():
    by_hand = lambda start: {f"{start}{name}": np.ones(shape) for name, shape in (("W1", (3, 2)), ("b1", 3))}
    pairs_in_order(by_hand(""), by_hand("d"), 2)
    pairs_in_order(by_hand("params_"), by_hand("grad_params_"), 2)
    pairs_in_order(net(0), net(1, suffix=".grad"))
    pairs_in_order(net(0), net(1, suffix="_grad"))
    both = ModelFile(net(1, "state_dict.") | net(2, "grads."), None)
    for kind, prefix in (("gradient", "grads."), ("weights", "state_dict.")):
        names = pair_files(ModelFile(net(0), None), both, kind=kind)
        assert names == {f"{prefix}{name}": name for name in net(0)}
    beside = ModelFile(net(0, "model.") | net(2, "g."), None)  # the model that was sent is no gradient
    assert pair_files(ModelFile(net(0), None), beside, kind="gradient") == {f"g.{name}": name for name in net(0)}
    with pytest.raises(UpdateError, match="what came back is the model that was sent, not a gradient"):
        make_update(ModelFile(net(0), None), ModelFile(net(0), None), kind="gradient")


def test_a_part_comes_back_under_its_own_names_or_under_the_models():
    sent = net(0, "backbone.") | {"head.weight": np.ones((4, 3)), "head.bias": np.ones(4)}
    head = {"weight": np.zeros((4, 3)), "bias": np.zeros(4)}
    for back in (head, {f"head.{name}": tensor for name, tensor in head.items()}):
        update = make_update(ModelFile(sent, None), ModelFile(back, None))
        assert sorted(update.client_tensors) == ["head.bias", "head.weight"]
        assert update.layer().name == "head"
        assert [layer.name for layer in update.trained] == ["head"]
    base = {name: tensor for name, tensor in net(1, "module.backbone.").items() if ".0." in name}
    update = make_update(ModelFile(sent, None), ModelFile(base, None))
    assert update.layer().name == "backbone.0"
    assert update.network() is not None  # the layers above are known although they did not come back


GUESSES = {
    "one tensor": ({"a": np.ones((2, 2))}, {"other.a": np.ones((2, 2))}),
    "another model": (net(0), {"enc.weight": np.ones((3, 3)), "enc.bias": np.ones(3)}),
    "the same layer of another module": (
        net(0, "encoder.") | net(0, "decoder."),
        {f"head.{name}": tensor for name, tensor in list(net(1).items())[:2]},
    ),
    "one layer called otherwise": (
        {"0.weight": np.ones((3, 2)), "0.bias": np.ones(3)},
        {"fc.weight": np.ones((3, 2)), "fc.bias": np.ones(3)},
    ),
    "half of a longer model": (net(0), {f"x.{name}": tensor for name, tensor in list(net(1).items())[:2]}),
}


@pytest.mark.parametrize("case", GUESSES)
def test_what_would_be_a_guess_is_refused_with_names_of_both_sides(case):
    sent, back = GUESSES[case]
    with pytest.raises(UpdateError, match="after holds .*, which before lacks; after lacks .*, which before holds"):
        pair_files(ModelFile(sent, None), ModelFile(back, None), kind="weights")


def test_either_of_two_modules_of_one_shape_is_no_answer():
    sent = net(0, "encoder.") | net(3, "decoder.")
    with pytest.raises(UpdateError, match=r"0\.weight may be (en|de)coder\.0\.weight or (en|de)coder\.0\.weight"):
        pair_files(ModelFile(sent, None), ModelFile(net(1), None), kind="weights")


def test_names_that_become_one_without_wrappers_keep_all_their_parts():
    sent = net(0) | net(2, "model.")
    pairs_in_order(sent, {name: tensor + 1 for name, tensor in sent.items()}, 12)
