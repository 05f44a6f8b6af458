"""What a run's folder tells TensorBoard."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from amc_env.pipeline.folder import RunFolder


def test_settings_and_final_figures_are_hyper_parameters_of_the_run_itself(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin_episodes(["a"])
    folder.note_settings({"agent": "tpe", "seed": 3}, {"reward": 0.5})
    folder.close()
    events = EventAccumulator(str(folder.curves)).Reload()
    found = {
        name: plugin_data_pb2.HParamsPluginData.FromString(content)
        for name, content in events.PluginTagToContent("hparams").items()
    }
    given = found["_hparams_/session_start_info"].session_start_info.hparams
    assert given["agent"].string_value == "tpe"
    assert given["seed"].number_value == 3
    metrics = found["_hparams_/experiment"].experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["final/reward"]
    assert [event.value for event in events.Scalars("final/reward")] == [0.5]
