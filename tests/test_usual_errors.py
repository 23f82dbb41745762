"""What errors are usual is learned level by level, at once first and slowly later, in any order."""

from __future__ import annotations

import torch

from riffusion_train.usual_errors import UsualErrors

TIMESTEPS = torch.arange(1000)


def test_what_is_expected_holds_until_more_is_known() -> None:
    usual = UsualErrors(torch.linspace(1, 0, 1000), levels=10)
    torch.testing.assert_close(
        usual.at(torch.tensor([0, 999])), torch.tensor([0.95, 0.05]), rtol=1e-3, atol=1e-3
    )
    usual.learn(torch.tensor([10, 20]), torch.tensor([4.0, 6.0]))
    assert usual.at(torch.tensor([0, 99, 999])).tolist() == [5.0, 5.0, usual.at(torch.tensor([950])).item()]


def test_it_follows_what_changes() -> None:
    usual = UsualErrors(torch.ones(1000))
    for _ in range(100):
        usual.learn(TIMESTEPS[::31], torch.full((33,), 0.2))
    torch.testing.assert_close(usual.at(TIMESTEPS), torch.full((1000,), 0.2))
    for _ in range(20):
        usual.learn(TIMESTEPS[::31], torch.full((33,), 0.1))
    after = usual.at(TIMESTEPS)
    assert 0.1 < float(after.min()) <= float(after.max()) < 0.15


def test_order_does_not_matter_and_a_state_goes_on() -> None:
    errors, order = torch.rand(1000), torch.randperm(1000)
    one, other = UsualErrors(torch.ones(1000)), UsualErrors(torch.ones(1000))
    one.learn(TIMESTEPS, errors)
    other.learn(TIMESTEPS[order], errors[order])
    torch.testing.assert_close(one.at(TIMESTEPS), other.at(TIMESTEPS))
    resumed = UsualErrors(torch.ones(1000))
    resumed.load_state_dict(one.state_dict())
    resumed.learn(TIMESTEPS[:8], errors[:8])
    assert not torch.equal(resumed.at(TIMESTEPS[:8]), one.at(TIMESTEPS[:8]))
    one.learn(TIMESTEPS[:8], errors[:8])
    assert torch.equal(resumed.at(TIMESTEPS), one.at(TIMESTEPS))


def test_there_may_be_fewer_timesteps_than_levels() -> None:
    usual = UsualErrors(torch.tensor([3.0, 2.0, 1.0]), levels=32)
    assert usual.at(torch.arange(3)).tolist() == [3.0, 2.0, 1.0]
