"""The learner: who is in which mode, who learns from whom, what passes from task to task, and in which precision."""

import pytest
import torch
from torch.nn import functional as F

from bench.config import EncoderConfig, OptimConfig
from bench.models import gather as gathering
from bench.models.encoder import build_encoder
from bench.models.learner import Learner
from bench.models.optim import build_optimizer
from methods import registry
from methods.heads import per_view
from methods.strategies.sycon import SyCON

SIZES = {"hidden": 16, "output": 8}
MORE = {"moco": {"queue": 20}, "swav": {"prototypes": 12, "queue": 32}}
N = 8


def make(strategy="sycon", objective="moco", **options):
    encoder, width = build_encoder(EncoderConfig(name="resnet4", width=8, stem="stride2"), 1, 8, 0)
    torch.manual_seed(0)
    cls = registry.get("objective", objective)
    o = cls(width, cls.Hparams(**SIZES, **MORE.get(objective, {})))
    s = None
    if strategy is not None:
        scls = registry.get("strategy", strategy)
        s = scls(o, (1, 8, 8), scls.Hparams(**({"hidden": 16} if scls.teacher else {})))
    return Learner(encoder, o, s, **options)


def batch(seed=0):
    return torch.randn(2, N, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def disturb_(module, seed=1):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))


def modes(module):
    return {m.training for m in module.modules()}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_teacher_has_the_mode_it_was_given_and_all_else_trains(mode):
    learner = make(teacher_bn=mode)
    for again in (False, True):
        if again:
            learner.eval()
            assert modes(learner) == {False}
            learner.train()
        assert modes(learner.teacher) == {mode == "train"}
        assert modes(learner.encoder) == modes(learner.target) == modes(learner.objective) == {True}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_teacher_normalises_as_its_mode_says(mode):
    learner = make(teacher_bn=mode)
    before = {n: v.clone() for n, v in learner.teacher.named_buffers()}
    learner(batch())
    moved = any(not torch.equal(v, before[n]) for n, v in learner.teacher.named_buffers())
    assert moved == (mode == "train")


def test_at_the_start_of_a_task_the_teacher_is_the_online_network():
    learner = make()
    disturb_(learner.encoder)
    disturb_(learner.objective.projector, 2)
    learner(batch())
    assert not torch.equal(learner.teacher.projector[0][0].weight, learner.objective.projector[0][0].weight)
    learner.start_task()
    for mine, online in (("encoder", learner.encoder), ("projector", learner.objective.projector)):
        theirs = getattr(learner.teacher, mine).state_dict()
        assert theirs.keys() == online.state_dict().keys()
        assert all(torch.equal(theirs[n], v) for n, v in online.state_dict().items())
    disturb_(learner.encoder, 3)
    assert not torch.equal(learner.teacher.encoder.stem[0].weight, learner.encoder.stem[0].weight)


@pytest.mark.parametrize("strategy", ["cassle", "finetune"])
def test_an_objective_hears_of_new_tasks_and_of_how_far_each_is(strategy):
    learner = make(strategy, "swav")
    learner.before_step(0.3)
    assert learner.objective.progress == 0.3
    learner.after_step(learner(batch()), 0.3)
    disturb_(learner.objective.prototypes)
    assert learner.objective.queue.any()
    learner.start_task()
    assert not learner.objective.queue.any()
    assert torch.equal(learner.objective.frozen, learner.objective.prototypes.weight())


def test_frozen_projections_come_from_the_previous_online_network_not_the_momentum_one():
    learner = make(teacher_bn="train")
    disturb_(learner.target)
    disturb_(learner.objective.target_projector, 2)
    learner.start_task()
    online = per_view(learner.objective.projector, per_view(learner.encoder, batch()))
    output = learner(batch())
    torch.testing.assert_close(output.frozen, online.detach())
    assert not torch.allclose(output.embeddings.k, output.frozen, atol=1e-2)
    learner.after_step(output, 0.0)
    torch.testing.assert_close(learner.strategy.past.keys[:, :N], output.frozen.flip(0))
    torch.testing.assert_close(learner.objective.pool.keys[:, :N], output.embeddings.k.flip(0))


def test_queues_are_read_before_the_batch_enters():
    learner = make()
    queues = learner.objective.pool.keys, learner.strategy.past.keys
    before = [queue.clone() for queue in queues]
    first, again = learner(batch()), learner(batch())
    assert all(torch.equal(a, b) for a, b in zip(queues, before, strict=True))
    torch.testing.assert_close(first.loss, again.loss)
    for queue, keys in zip(queues, (first.embeddings.k, first.frozen), strict=True):
        overlap = torch.bmm(queue, keys.flip(0).transpose(1, 2)).max()
        assert float(overlap) < 0.999
    learner.after_step(again, 0.0)
    assert learner(batch()).loss > again.loss + 0.1


def test_momentum_networks_move_by_the_rate_of_the_moment():
    learner = make("finetune")
    disturb_(learner.encoder)
    disturb_(learner.objective.projector, 2)
    pairs = [(learner.target, learner.encoder), (learner.objective.target_projector, learner.objective.projector)]
    old = [[p.clone() for p in target.parameters()] for target, _ in pairs]
    learner.after_step(learner(batch()), 0.5)
    tau = learner.objective.tau(0.5)
    for (target, online), before in zip(pairs, old, strict=True):
        for p, q, b in zip(target.parameters(), online.parameters(), before, strict=True):
            torch.testing.assert_close(p.data, tau * b + (1 - tau) * q.data)


def test_momentum_network_keeps_its_own_batch_statistics():
    learner = make("finetune")
    disturb_(learner.encoder)
    output = learner(batch())
    mean = learner.target.stem[1].running_mean.clone()
    learner.after_step(output, 0.0)
    assert torch.equal(learner.target.stem[1].running_mean, mean)
    assert not torch.allclose(mean, learner.encoder.stem[1].running_mean)
    assert modes(learner.target) == {True}


def test_no_gradient_reaches_teacher_keys_or_queues():
    learner = make()
    output = learner(batch())
    assert output.loss.requires_grad
    assert not output.frozen.requires_grad
    assert not output.embeddings.k.requires_grad
    assert not any(b.requires_grad for b in learner.buffers())
    output.loss.backward()
    with_grad = {n.split(".")[0] for n, p in learner.named_parameters() if p.grad is not None}
    assert with_grad == {"encoder", "objective", "strategy"}
    assert all(p.grad is None for p in learner.objective.target_projector.parameters())


@pytest.mark.parametrize("objective", sorted(registry.classes("objective")))
def test_one_task_is_plain_ssl(objective):
    learner = make(None, objective)
    assert learner.teacher is None
    views = batch()
    with torch.no_grad():
        target = None if learner.target is None else per_view(learner.target, views)
        e = learner.objective.embed(per_view(learner.encoder, views), target)
        torch.testing.assert_close(learner(views).loss, learner.objective.loss(e))


def test_views_are_normalised_apart():
    learner = make(None, "simclr")
    views = batch()
    other = torch.stack([views[0], views[1] * 3 + 2])
    assert torch.equal(learner.encode(learner.encoder, views)[0], learner.encode(learner.encoder, other)[0])


def test_encode_gives_float32_features_of_both_views():
    learner = make(precision="bf16")
    h = learner.encode(learner.encoder, batch())
    assert h.shape == (2, N, 8)
    assert h.dtype == torch.float32


def test_bf16_is_close_to_fp32_and_not_the_same():
    torch.manual_seed(0)
    exact, rounded = (make(precision=p)(batch()) for p in ("fp32", "bf16"))
    assert rounded.loss.dtype == rounded.embeddings.z.dtype == torch.float32
    assert float(rounded.loss.detach()) == pytest.approx(float(exact.loss.detach()), rel=0.02)
    assert rounded.loss.item() != exact.loss.item()


def test_bf16_gives_float32_gradients():
    learner = make(precision="bf16")
    learner(batch()).loss.backward()
    grads = [p.grad for p in learner.parameters() if p.requires_grad]
    assert {g.dtype for g in grads} == {torch.float32}


# --- from task to task ------------------------------------------------------------------------------------------------


def test_everything_but_the_teacher_is_carried():
    names = {name.split(".")[0] for name in make().carried_state()}
    assert names == {"encoder", "target", "objective", "strategy"}
    carried = make().carried_state()
    for part in ("objective.pool.keys", "objective.pool.pointer", "strategy.past.keys", "strategy.past.pointer"):
        assert part in carried
    assert "encoder.stem.1.running_mean" in carried
    assert "target.stem.1.running_mean" in carried
    assert "strategy.predictor.0.weight" in carried


def test_carried_state_is_taken_over_bit_by_bit():
    learner, other = make(), make()
    disturb_(learner)
    learner.after_step(learner(batch()), 0.0)
    other.load_carried_state(learner.carried_state())
    found = other.carried_state()
    assert all(torch.equal(found[name], value) for name, value in learner.carried_state().items())


def test_a_strategy_stays_fresh_after_a_task_without_one():
    first, second = make(None), make()
    disturb_(first)
    fresh = {n: v.clone() for n, v in second.strategy.state_dict().items()}
    second.load_carried_state(first.carried_state())
    assert all(torch.equal(second.strategy.state_dict()[n], v) for n, v in fresh.items())
    assert torch.equal(second.encoder.stem[0].weight, first.encoder.stem[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("encoder.stem.0.weight"), "Missing key"),
        (lambda state: state.pop("strategy.predictor.0.weight"), "Missing key"),
        (lambda state: state.update(surplus=torch.zeros(1)), "Unexpected key"),
        (lambda state: state.update({"objective.pool.keys": torch.zeros(2, 3, 8)}), "size mismatch"),
    ],
    ids=["missing weight", "half a strategy", "surplus", "another shape"],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    state = make().carried_state()
    change(state)
    with pytest.raises(RuntimeError, match=message):
        make().load_carried_state(state)


def test_a_state_with_a_strategy_does_not_fit_a_learner_without():
    with pytest.raises(RuntimeError, match="Unexpected key"):
        make(None).load_carried_state(make().carried_state())


def test_compiled_encoders_keep_names_and_states():
    learner = make()
    before = learner.state_dict()
    learner.compile_encoders(backend="eager")
    assert learner.state_dict().keys() == before.keys()
    assert isinstance(learner.encoder, type(make().encoder))


# --- several processes ------------------------------------------------------------------------------------------------


def test_features_are_joined_behind_the_encoder_with_gradient_to_the_own_rows(monkeypatch):
    other = torch.full((2, 3, 4), 7.0)

    def all_gather(parts, own, group):
        parts[0].copy_(other)
        parts[1].copy_(own)

    monkeypatch.setattr(gathering, "processes", lambda: 2)
    monkeypatch.setattr(gathering, "group_of", lambda device: None)
    monkeypatch.setattr(gathering.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(gathering.dist, "all_gather", all_gather)
    h = torch.arange(24.0).reshape(2, 3, 4).requires_grad_()
    joined = gathering.gather(h)
    assert torch.equal(joined, torch.cat([other, h.detach()], 1))
    weight = torch.arange(48.0).reshape(2, 6, 4)
    (joined * weight).sum().backward()
    assert torch.equal(h.grad, 2 * weight[:, 3:])  # of which the mean over processes is taken


def test_losses_see_the_features_of_all_processes():
    learner = make(None, "simclr")
    learner.gather = lambda h: torch.cat([h, h + 1], 1)
    assert learner(batch()).embeddings.z.shape == (2, 2 * N, 8)


def test_one_process_needs_no_other_module():
    learner = make()
    assert gathering.in_parallel(learner) is learner
    assert gathering.share(8) == slice(0, 8)


def test_a_strategy_without_teacher_has_none():
    assert make("finetune").teacher is None
    assert isinstance(make().strategy, SyCON)
    assert make("cassle", "simclr").target is None


def test_unit_projections_of_moco():
    output = make()(batch())
    for x in (output.embeddings.z, output.embeddings.k, output.frozen):
        torch.testing.assert_close(x, F.normalize(x, dim=-1))


# --- the fast ways and the plain one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", sorted(registry.classes("objective")))
def test_the_plain_learner_gives_the_same_loss_and_gradient(objective):
    fast, plain = make(objective=objective), make(objective=objective, plain=True)
    losses = [learner(batch()).loss for learner in (fast, plain)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    for p, q in zip(fast.parameters(), plain.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)


def test_a_teacher_in_eval_mode_works_folded_and_follows_every_change_of_its_state():
    learner = make()
    views = batch()
    old = learner(views).frozen
    disturb_(learner.encoder)
    learner.start_task()
    expected = per_view(learner.teacher.projector, per_view(learner.teacher.encoder, views)).detach()
    assert not torch.allclose(old, expected, atol=1e-2)
    torch.testing.assert_close(learner(views).frozen, expected)
    saved = {name: value.clone() for name, value in learner.state_dict().items()}
    disturb_(learner.encoder, 5)
    learner.start_task()
    learner(views)
    learner.load_state_dict(saved)
    torch.testing.assert_close(learner(views).frozen, expected)


def test_the_folded_teacher_is_no_part_of_the_state():
    learner = make()
    before = set(learner.state_dict())
    parameters = len(list(learner.parameters()))
    learner(batch())
    assert set(learner.state_dict()) == before
    assert len(list(learner.parameters())) == parameters
    assert learner.teacher._folded


class Waits(torch.utils._python_dispatch.TorchDispatchMode):
    """Operations for which a program waits until the device has come so far: the host needs to know a value."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.NAMES):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", sorted(registry.classes("objective")))
@pytest.mark.parametrize("strategy", ["finetune", "cassle", "sycon", "lump"])
def test_nothing_in_a_step_waits_for_the_device(strategy, objective):
    learner = make(strategy, objective, precision="bf16")
    optimizer = build_optimizer(learner, OptimConfig(name="lars"), learner.constant_lr)
    for step in range(2):
        with Waits() as waits:
            output = learner(batch(step))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            learner.after_step(output, 0.5)
        assert waits.seen == []
    with Waits() as waits:
        float(output.loss.detach())
    assert waits.seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("objective", sorted(registry.classes("objective")))
def test_nothing_in_a_step_on_cuda_waits_for_it(objective):
    learner = make(objective=objective, precision="bf16").cuda()
    optimizer = build_optimizer(learner, OptimConfig(name="lars"), learner.constant_lr)
    views = batch().cuda()
    for checked in ("default", "error"):
        torch.cuda.set_sync_debug_mode(checked)
        try:
            output = learner(views)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            learner.after_step(output, 0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
