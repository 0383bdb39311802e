"""The clock of the model and the progress over batches."""

from torch import nn

from counterpoise.inference import hooks as inference
from counterpoise.inference.hooks import InferenceClock
from counterpoise.inference.loop import infer


class Model(nn.Module):
    """Takes a second for an image, by a clock that only it moves."""

    now = 0.0

    def forward(self, batch):
        self.now += len(batch)
        return batch


def test_the_clock_measures_the_model_and_not_what_is_around_it(monkeypatch):
    model = Model()
    monkeypatch.setattr(inference, "_now", lambda: model.now)
    with InferenceClock(model) as clock:
        assert clock.seconds_per_image is None
        for batch in (["a"], ["b", "c"], ["d"]):
            model(batch)
            model.now += 100
        assert clock.seconds_per_image == 1
    model.now = float("nan")
    model(["e"])
    assert clock.seconds_per_image == 1


def test_every_batch_comes_with_its_outputs_and_the_model_goes_back_to_training():
    model = Model()
    given = [["a"], ["b", "c"]]
    assert [(i, o) for i, o in infer(model, given, 3, "looking")] == [(b, b) for b in given]
    assert model.training
