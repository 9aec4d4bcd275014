"""metrics.jsonl, TensorBoard, and loggers that fail."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.interfaces import loggers
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.loggers import GuardedLoggers, JsonLines, TensorBoard, tensorboard


class Recorder(RunLogger):
    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def begin(self, folder, first):
        self.calls.append(("begin", first))

    def scalars(self, step, values):
        if step == self.fail_at:
            raise OSError("the server does not answer")
        self.calls.append((step, dict(values)))

    def close(self):
        self.calls.append("close")


def log(logger, folder, steps):
    logger.begin(folder, steps[0])
    for step in steps:
        logger.scalars(step, {"loss": float(step)})
    logger.close()


def until_checkpoint(folder):
    logger = JsonLines()
    logger.begin(folder, 0)
    for step in range(2):
        logger.scalars(step, {"loss": float(step)})
    mark = logger.mark()
    logger.close()
    return mark


def test_json_lines_go_on_where_the_checkpoint_was(tmp_path):
    mark = until_checkpoint(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "loss": 2.0}\n{"step": 3, "lo')  # a kill cut this one short
    log(JsonLines(mark), tmp_path, range(2, 5))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "loss": float(step)} for step in range(5)]


def test_tensorboard_holds_numbers_and_images_once_after_an_interruption(tmp_path):
    for steps in (range(4), range(2, 5)):
        logger = TensorBoard(images_every=2, most_images=3)
        logger.begin(tmp_path, steps[0])
        for step in steps:
            logger.scalars(step, {"loss": step / 10})
            logger.images(step, lambda: torch.rand(5, 1, 8, 8))
        logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == [0, 1, 2, 3, 4]
    assert [event.value for event in scalars] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    images = events.Images("synthetic")
    assert [event.step for event in images] == [0, 2, 4]
    assert (images[0].width, images[0].height) == (8 * 3, 8), "three images side by side"


def test_tensorboard_drops_what_a_process_wrote_that_was_killed_before_its_first_checkpoint(tmp_path):
    for steps in (range(10), range(8)):
        log(TensorBoard(), tmp_path, steps)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(8))


@pytest.mark.parametrize(
    "content", [b"", b'{"step": 0, "loss": 0.0}\n', b'{"step": 0, "loss": 9.0}\n{"step": 1, "loss": 1.0}\n']
)
def test_json_lines_that_changed_since_the_checkpoint_are_refused(content, tmp_path):
    mark = until_checkpoint(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"metrics.jsonl: damaged.*delete it to go on"):
        JsonLines(mark).begin(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content, "what is there is left to be looked at"


def test_json_lines_go_on_without_what_was_deleted(tmp_path):
    mark = until_checkpoint(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    log(JsonLines(mark), tmp_path, [2])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2, "loss": 2.0}\n'


def test_images_are_asked_for_only_when_their_turn_has_come(tmp_path):
    asked = []
    logger = TensorBoard(images_every=3)
    logger.begin(tmp_path, 0)
    for step in range(7):
        logger.images(step, lambda step=step: asked.append(step) or torch.zeros(1, 1, 4, 4))
    logger.close()
    assert asked == [0, 3, 6]


def test_missing_tensorboard_is_one_message_with_the_remedy(monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"loggers\[0\]: TensorBoard is not installed; pip install"):
        loggers.build({"name": "tensorboard"}, "loggers[0]")


def test_a_failing_logger_is_named_once_and_the_others_go_on(tmp_path):
    bad, good = Recorder(fail_at=1), Recorder()
    both = GuardedLoggers([("tracker", bad), ("other", good)])
    with pytest.warns(UserWarning, match="logger tracker failed and is left out.*the server does not answer") as seen:
        log(both, tmp_path, range(4))
    assert len(seen) == 1
    assert bad.calls == [("begin", 0), (0, {"loss": 0.0})]
    assert [call for call in good.calls if isinstance(call, tuple)][1:] == [(s, {"loss": float(s)}) for s in range(4)]
    assert good.calls[-1] == "close"
