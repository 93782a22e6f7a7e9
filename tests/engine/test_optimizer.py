"""SOLVER.OPTIMIZER: which parameter learns at which rate with which decay, and what a resumed training goes on from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import detectron2.solver
import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from torch import Tensor, nn

from fpt_d2.config_file import read_config
from fpt_d2.engine import ConfigError, Trainer
from fpt_d2.engine.lazy import read_lazy_config
from fpt_d2.engine.optimizer import build_optimizer, make_resumable, trunk_prefix
from fpt_d2.modeling import check_model

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quick_schedules" / "Base-quickstart.yaml")
UFP = str(ROOT / "configs" / "quick_schedules" / "ufp_fpt_R_50_quickstart.yaml")
FCOS = str(ROOT / "configs" / "quick_schedules" / "fcos_R_18_FPT_quickstart.py")
PARTS = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BACKBONE_MULTIPLIER", 0.1, "SOLVER.FPT_MULTIPLIER", 4.0]
NEVER_DECAYED = ("gate", "logit_scale")


def config(*words: Any, file: str = QUICKSTART) -> CfgNode:
    return read_config(file, [str(word) for word in ("SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25, *words)])


def build(*words: Any, file: str = QUICKSTART) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model without values, and its optimizer."""
    cfg = config(*words, file=file)
    model = check_model(cfg)
    return model, build_optimizer(cfg, model)


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    values = {parameter: group[key] for group in optimizer.param_groups for parameter in group["params"]}
    return {name: values[p] for name, p in model.named_parameters() if p.requires_grad}


def norm_parameters(model: nn.Module) -> set[str]:
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, norms) for p, _ in m.named_parameters()}


class Softmax(nn.Module):
    """Parameters by the names that those of the mixture have."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale, self.gate = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 3))
        self.query = nn.Linear(3, 3)


def test_rates_by_part_of_the_model() -> None:
    model, optimizer = build(*PARTS)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["betas"] == (0.9, 0.999)
    rates = by_name(model, optimizer, "lr")
    assert len(rates) == len([p for p in model.parameters() if p.requires_grad])
    for name, rate in rates.items():
        is_branch = name.startswith("backbone.fpt.") or ".fuse." in name
        expected = 0.5 * (4.0 if is_branch else 0.1 if name.startswith("backbone.bottom_up.") else 1.0)
        assert rate == pytest.approx(expected), name
    assert {
        rates[n] for n in rates if n.startswith(("backbone.fpn_", "proposal", "roi_heads")) and "fuse" not in n
    } == {0.5}


@pytest.mark.parametrize(
    ("file", "words", "trunk", "added"),
    [
        (UFP, [], "backbone.bottom_up.", "backbone.ufp_output.u1.fuse.0.weight"),
        # The trunk of a pyramid's is not the pyramid.
        (
            QUICKSTART,
            ["MODEL.FPT.PYRAMID", "build_resnet_bifpn_backbone"],
            "backbone.bottom_up.bottom_up.",
            "backbone.fpt_output.p2.fuse.0.weight",
        ),
        # What is new in a trunk learns as all that is new.
        (QUICKSTART, ["MODEL.PLUGINS.NON_LOCAL", "['res4.-2']"], "backbone.bottom_up.", "backbone.fpt.gt.p2_p3.gate"),
    ],
)
def test_the_trunk_and_the_branches_of_other_models(file: str, words: list[str], trunk: str, added: str) -> None:
    model, optimizer = build(*PARTS, *words, file=file)
    rates = by_name(model, optimizer, "lr")
    assert trunk_prefix(model) == trunk and rates[added] == 2.0
    for name, rate in rates.items():
        is_trunk = name.startswith(trunk) and ".plugins." not in name
        assert (rate == pytest.approx(0.05)) == is_trunk, name
    assert {rate for name, rate in rates.items() if "bifpn" in name or ".plugins." in name} <= {0.5}


def test_a_backbone_without_a_neck_is_a_trunk() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    rates = by_name(model, build_optimizer(config(*PARTS), model), "lr")
    assert {n: round(rate, 6) for n, rate in rates.items() if n.endswith("weight")} == {
        "backbone.weight": 0.05,
        "head.weight": 0.5,
    }


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_temperatures_gates_and_norms_do_not_decay(optimizer: str) -> None:
    words = ["SOLVER.OPTIMIZER", optimizer, "SOLVER.WEIGHT_DECAY_NORM", 0.125, "MODEL.FPT.QK_NORM", True]
    model, built = build(*words)
    norms, decays = norm_parameters(model), by_name(model, built, "weight_decay")
    gates = [name for name in decays if name.endswith(NEVER_DECAYED)]
    assert len(gates) == 20 and len(norms) > 50  # ST of four levels and GT of six pairs, two in each
    for name, decay in decays.items():
        assert decay == (0.0 if name in gates else 0.125 if name in norms else 0.25), name
    small = Softmax()
    decays = by_name(small, build_optimizer(config("SOLVER.OPTIMIZER", optimizer), small), "weight_decay")
    assert decays == {"logit_scale": 0.0, "gate": 0.0, "query.weight": 0.25, "query.bias": 0.25}


def test_keys_of_biases_mean_what_they_mean_in_detectron2() -> None:
    words = ["SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0]
    model, optimizer = build(*words)
    theirs = detectron2.solver.build_optimizer(config(*words), model)
    for key in ("lr", "weight_decay", "momentum", "nesterov"):
        ours, expected = by_name(model, optimizer, key), by_name(model, theirs, key)
        assert {n: v for n, v in ours.items() if v != expected[n]} == (
            {n: 0.0 for n in ours if n.endswith("gate")} if key == "weight_decay" else {}
        )
    model, optimizer = build(*words, *PARTS)
    rates = by_name(model, optimizer, "lr")
    assert rates["backbone.fpt.gt.p2_p3.query.bias"] == 4.0 and rates["backbone.fpt.gt.p2_p3.query.weight"] == 2.0


def test_without_branches_the_groups_are_detectron2s() -> None:
    model, optimizer = build("MODEL.FPT.BRANCHES", "[]")
    theirs = detectron2.solver.build_optimizer(config("MODEL.FPT.BRANCHES", "[]"), model)
    for ours, expected in zip(optimizer.param_groups, theirs.param_groups, strict=True):
        assert all(a is b for a, b in zip(ours["params"], expected["params"], strict=True))
    assert optimizer.defaults == theirs.defaults


@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"])
def test_schedules_keep_the_ratios_of_the_rates(schedule: str) -> None:
    cfg = config(*PARTS, "SOLVER.LR_SCHEDULER_NAME", schedule, "SOLVER.MAX_ITER", 12, "SOLVER.STEPS", "(6, 9)")
    cfg.SOLVER.WARMUP_ITERS = 3
    model = Softmax()
    model.backbone, model.fpt = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, model)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    seen = []
    for _ in range(11):
        rates = by_name(model, optimizer, "lr")
        assert rates["backbone.weight"] == pytest.approx(0.1 * rates["query.weight"])
        assert rates["fpt.weight"] == pytest.approx(4 * rates["gate"])
        seen.append(rates["query.weight"])
        optimizer.step()
        scheduler.step()
    assert seen[0] < seen[2] < max(seen) and seen[-1] < seen[4]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_clipping_works_with_both_optimizers_and_scaled_losses(optimizer: str, clip_type: str) -> None:
    """What is clipped is what the mean loss's gradient is, not what mixed precision makes of it."""
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type]
    model = Softmax()
    built = build_optimizer(
        config("SOLVER.OPTIMIZER", optimizer, *clip, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0), model
    )
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(sum(10 * p.sum() for p in model.parameters())).backward()
    scaler.step(built)
    assert not torch.equal(before["gate"], model.gate)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        divisor = {"value": 1, "norm": sizes[name], "full_model": sum(sizes.values())}[clip_type]
        assert torch.allclose(parameter.grad, torch.full_like(parameter, divisor**-0.5), rtol=1e-4), name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["SOLVER.OPTIMIZER", "adam"], "SOLVER.OPTIMIZER is 'adam'; allowed: 'SGD' or 'AdamW'"),
        (["SOLVER.BACKBONE_MULTIPLIER", 0.0], "SOLVER.BACKBONE_MULTIPLIER is 0.0; allowed: a positive number"),
        (["SOLVER.FPT_MULTIPLIER", -1.0], "SOLVER.FPT_MULTIPLIER is -1.0; allowed: a positive number"),
        (["SOLVER.FPT_MULTIPLIER", "1e400"], "SOLVER.FPT_MULTIPLIER is inf"),
        (
            ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"],
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'all'; allowed: 'value', 'norm' or 'full_model'",
        ),
    ],
)
def test_wrong_values_end_in_a_sentence_before_the_data_are_read(
    command_line, train_net, capsys, words: list[Any], sentence: str
) -> None:
    assert train_net(command_line(*words, "DATASETS.TRAIN", "('nowhere',)")) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and len(error.splitlines()) == 1


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_a_training_with_adamw_and_what_it_goes_on_from(command_line, train_net, out: Path, capsys) -> None:
    words = [*PARTS, "SOLVER.BASE_LR", 1e-3, "SOLVER.WEIGHT_DECAY", 0.05, "DATASETS.TEST", "()"]
    words += ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"]
    assert train_net(command_line(*words, "SOLVER.MAX_ITER", 3)) == 0
    assert train_net(command_line("--resume", *words, "SOLVER.MAX_ITER", 5)) == 0
    saved = load(out / "model_final.pth")
    optimizer = saved["trainer"]["_trainer"]["optimizer"]
    assert saved["iteration"] == 4 and optimizer["state"][0]["step"] == 5
    assert {round(group["initial_lr"], 9) for group in optimizer["param_groups"]} == {1e-4, 1e-3, 4e-3}
    for other, sentence in [
        (["SOLVER.OPTIMIZER", "SGD"], "was trained by AdamW, from whose state SGD cannot go on: set SOLVER.OPTIMIZER"),
        (["SOLVER.FPT_MULTIPLIER", 1.0], "was trained with parameter groups of ["),
        (["MODEL.FPT.BRANCHES", "[]"], "was trained with parameter groups of ["),
    ]:
        capsys.readouterr()
        assert train_net(command_line("--resume", *words, *other, "SOLVER.MAX_ITER", 7)) == 2
        error = capsys.readouterr().err.strip()
        assert sentence in error and len(error.splitlines()) == 1
    assert train_net(command_line("--resume", "--num-gpus=2", "SOLVER.MAX_ITER", 7)) == 2  # before they are started
    assert "from whose state SGD cannot go on" in capsys.readouterr().err
    assert load(out / "model_final.pth")["iteration"] == 4


def with_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("bias_lr_factor", [1.0, 2.0])
def test_a_state_of_detectron2s_groups_is_gone_on_from(bias_lr_factor: float) -> None:
    """It is the one of checkpoints that were made before gates had a group of their own."""
    cfg = config("SOLVER.BIAS_LR_FACTOR", bias_lr_factor, "SOLVER.CLIP_GRADIENTS.ENABLED", False)
    model = nn.Sequential(Softmax(), nn.GroupNorm(3, 3), Softmax())
    theirs = detectron2.solver.build_optimizer(cfg, model)
    Trainer.build_lr_scheduler(cfg, theirs)
    with_gradients(model, 0)
    theirs.step()
    again = copy.deepcopy(model)
    ours = build_optimizer(cfg, again)
    assert [len(g["params"]) for g in ours.param_groups] != [len(g["params"]) for g in theirs.param_groups]
    ours.load_state_dict(theirs.state_dict())
    names = [name for name, _ in model.named_parameters()]
    for name, p, q in zip(names, model.parameters(), again.parameters()):
        assert torch.equal(theirs.state[p]["momentum_buffer"], ours.state[q]["momentum_buffer"]), name
    for key in ("lr", "initial_lr", "momentum"):
        assert by_name(again, ours, key) == by_name(model, theirs, key)
    decays = by_name(again, ours, "weight_decay")
    assert {n for n in names if not decays[n]} == {n for n in names if n.endswith(NEVER_DECAYED) or n.startswith("1.")}


def test_a_whole_training_goes_on_from_detectron2s_groups(
    command_line, train_net, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["DATASETS.TEST", "()", "MODEL.RESNETS.NORM", "FrozenBN"]  # one group of Detectron2's, two of ours
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "build_optimizer", classmethod(lambda cls, *args: detectron2.solver.build_optimizer(*args))
        )
        assert train_net(command_line(*words, "SOLVER.MAX_ITER", 2)) == 0
    old = load(out / "model_final.pth")["trainer"]
    assert len(old["_trainer"]["optimizer"]["param_groups"]) == 1
    assert train_net(command_line("--resume", *words, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "(3,)")) == 0
    new = load(out / "model_final.pth")["trainer"]
    assert [round(g["lr"], 9) for g in new["_trainer"]["optimizer"]["param_groups"]] == [0.0002, 0.0002]
    assert new["hooks"]["LRScheduler"]["base_lrs"] == [0.002, 0.002]


def test_the_adamw_of_lazy_configs() -> None:
    node = LazyConfig.load(str(ROOT / "configs" / "common" / "optim.py")).AdamW
    node.params.update(backbone_multiplier=0.1, fpt_multiplier=4.0)
    model: nn.Module = instantiate(read_lazy_config(FCOS).model)
    node.params.model = model
    optimizer = instantiate(node)
    rates, decays = by_name(model, optimizer, "lr"), by_name(model, optimizer, "weight_decay")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert rates["backbone.bottom_up.stem.conv1.weight"] == pytest.approx(2e-5)
    assert rates["backbone.fpt.gt.p3_p4.gate"] == pytest.approx(8e-4) and decays["backbone.fpt.gt.p3_p4.gate"] == 0.0
    assert rates["head.cls_score.weight"] == 2e-4 and decays["head.cls_score.weight"] == 0.05
    make_resumable(optimizer, [], key="optimizer")
    with pytest.raises(ConfigError, match="set optimizer to SGD"):
        optimizer.load_state_dict(torch.optim.SGD([Tensor([1.0])]).state_dict())
