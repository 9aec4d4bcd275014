"""metrics.jsonl, tables, TensorBoard, wandb and MLflow offline, and loggers that fail."""

import csv
import json
import socket
import struct
import tomllib
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.interfaces import loggers
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.loggers import GuardedLoggers, JsonLines, TensorBoard, pictures
from hoptm_plugin.storage.run_files import write_config


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


@pytest.mark.parametrize(("name", "title"), [("tensorboard", "TensorBoard"), ("wandb", "wandb"), ("mlflow", "MLflow")])
def test_a_missing_package_is_one_message_with_the_remedy(monkeypatch, name, title):
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    remedy = rf'loggers\[0\]: {title} is not installed; pip install "hoptm-plugin\[{name}\]"'
    with pytest.raises(ConfigurationError, match=remedy):
        loggers.build({"name": name}, "loggers[0]")
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras[name][0].startswith(name)


def table(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_csv_table_has_a_column_for_each_number_whenever_it_comes(tmp_path):
    logger = loggers.build({"name": "csv"})
    logger.begin(tmp_path, 0)
    logger.scalars(0, {"loss": 0.5})
    logger.scalars(10, {"loss": 0.25, "step_size": 1e-3})
    logger.scalars(20, {"evaluation/evaluations/convnet(depth=3,width=8)": 0.5})
    logger.close()
    name = "evaluation/evaluations/convnet(depth=3,width=8)"
    assert table(tmp_path) == [
        {"step": "0", "loss": "0.5", "step_size": "", name: ""},
        {"step": "10", "loss": "0.25", "step_size": "0.001", name: ""},
        {"step": "20", "loss": "", "step_size": "", name: "0.5"},
    ]


@pytest.mark.parametrize("torn", [b"", b"4,0.", b'4,"', b"\xff,\n"])
def test_a_csv_table_holds_each_row_once_after_an_interruption(tmp_path, torn):
    log(loggers.build({"name": "csv"}), tmp_path, range(4))
    with (tmp_path / "metrics.csv").open("ab") as stream:
        stream.write(torn)
    log(loggers.build({"name": "csv"}), tmp_path, range(2, 6))
    assert [(row["step"], row["loss"]) for row in table(tmp_path)] == [(str(step), f"{step}.0") for step in range(6)]


def test_what_was_no_table_is_dropped(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    log(loggers.build({"name": "csv"}), tmp_path, range(2))
    assert [row["step"] for row in table(tmp_path)] == ["0", "1"]


def write_settings(folder):
    write_config({"seed": 3, "method": {"name": "mine", "matchers": {"a": [1, 2]}}, "dataset": {"root": "/home/me/x"}},
                 folder / "config.yaml")  # fmt: skip


BLOCK, FILE_HEADER, HEADER = 2**15, 7, 7  # of LevelDB's log format, in which wandb keeps what is to be sent


def offline_records(folder):
    """Return the records of all offline files of wandb, in the order of their making."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        content, at, data = file.read_bytes(), FILE_HEADER, b""
        while at + HEADER <= len(content):
            if BLOCK - at % BLOCK < HEADER:
                at += BLOCK - at % BLOCK
                continue
            length, kind = struct.unpack_from("<HB", content, at + 4)
            data += content[at + HEADER : at + HEADER + length]
            at += HEADER + length
            if kind in (1, 4):  # whole, or the last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                data = b""
                yield record


def test_wandb_offline_holds_each_row_once_and_nothing_of_the_machine(tmp_path):
    pytest.importorskip("wandb")
    write_settings(tmp_path)
    for steps in (range(3), range(1, 5)):
        logger = loggers.build({"name": "wandb", "mode": "offline", "images_every": 2})
        logger.begin(tmp_path, steps[0])
        for step in steps:
            logger.scalars(step, {"loss": step / 10})
            logger.images(step, lambda: torch.rand(5, 1, 8, 8))
        logger.close()
    records = list(offline_records(tmp_path))
    rows = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for record in records if record.WhichOneof("record_type") == "history"]  # fmt: skip
    assert [(row["_step"], row["loss"]) for row in rows] == [(step, step / 10) for step in range(5)]
    assert [row["_step"] for row in rows if "synthetic" in row] == [0, 2, 4]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1, "the second process goes on with the first one's run"
    assert runs[0].display_name == tmp_path.name
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["method.name"] == "mine"
    assert config["dataset.root"] == "(path left out)"
    said = "".join(map(str, records))
    for private in (socket.gethostname(), "/home/me", str(Path.home()), str(Path.cwd())):
        assert private not in said or len(private) < 3, private


@pytest.mark.parametrize("store", ["file:{}/mlruns", "sqlite:///{}/mlflow.db"])
def test_an_mlflow_store_holds_each_row_once(store, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = tmp_path / "run"
    run.mkdir()
    write_settings(run)
    monkeypatch.chdir(tmp_path)  # where pictures lie, of a database
    uri = store.format(tmp_path)
    for steps in (range(3), range(1, 5)):
        logger = loggers.build({"name": "mlflow", "tracking_uri": uri, "images_every": 2})
        logger.begin(run, steps[0])
        for step in steps:
            logger.scalars(step, {"loss": step / 10, "evaluation/convnet(depth=3)": 1.0})
            logger.images(step, lambda: torch.rand(5, 1, 8, 8))
        logger.close()
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("hoptm").experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(row.step, row.value) for row in history] == [(step, step / 10) for step in range(5)]
    assert set(found.data.metrics) == {"loss", "evaluation/convnet_depth_3_"}
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["method.name"] == "mine"
    assert found.data.params["dataset.root"] == "(path left out)"
    shown = [each.path for each in client.list_artifacts(found.info.run_id, "synthetic")]
    assert shown == [f"synthetic/{step:07}.png" for step in (0, 2, 4)]


def test_a_store_that_cannot_be_reached_ends_no_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    (tmp_path / "file").write_text("")
    both = GuardedLoggers([("mlflow", loggers.build({"name": "mlflow", "tracking_uri": f"file:{tmp_path / 'file'}"})),
                           ("csv", loggers.build({"name": "csv"}))])  # fmt: skip
    with pytest.warns(UserWarning, match="logger mlflow failed and is left out"):
        log(both, tmp_path, range(3))
    assert [row["step"] for row in table(tmp_path)] == ["0", "1", "2"]


def test_a_failing_logger_is_named_once_and_the_others_go_on(tmp_path):
    bad, good = Recorder(fail_at=1), Recorder()
    both = GuardedLoggers([("tracker", bad), ("other", good)])
    with pytest.warns(UserWarning, match="logger tracker failed and is left out.*the server does not answer") as seen:
        log(both, tmp_path, range(4))
    assert len(seen) == 1
    assert bad.calls == [("begin", 0), (0, {"loss": 0.0})]
    assert [call for call in good.calls if isinstance(call, tuple)][1:] == [(s, {"loss": float(s)}) for s in range(4)]
    assert good.calls[-1] == "close"
