"""The demo as a whole: its sources, its network, and the stream or the page that shows them."""

from dataclasses import replace

from config import Config
from util import UserError
from util.checkpoint import shipped_weights, spec_from_config
from util.demo.live_page import serve
from util.demo.settings import DemoSettings
from util.demo.sources import Source, open_source
from util.demo.stream import frames_to_come, run_stream
from util.inference.predictor import HandPosePredictor

SHORT = 100  # frames


def run_demo(settings: DemoSettings) -> None:
    """Predict the frames of every source, and show or save the poses."""
    sources = [open_source(name, settings) for name in settings.source]
    if not (settings.show or settings.save or settings.serve):
        settings = replace(settings, weights=False)  # nobody would see them
    predictor = load_predictor(settings, sources[0])
    if settings.serve:
        serve(sources, predictor, settings)
    else:
        run_stream(sources[0], predictor, settings)


def load_predictor(settings: DemoSettings, source: Source) -> HandPosePredictor:
    """The network that the settings name, run by what suits the source."""
    length, backend = frames_to_come(source, settings), settings.backend
    # Other engines give no weight maps, and take 10 s to start, which a few frames do not make up for.
    if backend == "auto" and (settings.weights or settings.serve or (length or SHORT) < SHORT):
        backend = "torch"
    config = Config(net=settings.net, dataset=settings.dataset).resolved()
    weights = settings.load_model or shipped_weights(config)
    if not weights:
        raise UserError(f"No weights of {config.net} for {config.dataset} come with AWR: pass --load_model.")
    predictor = HandPosePredictor(
        weights,
        device=settings.device,
        precision=settings.precision,
        min_confidence=settings.min_confidence,
        assumed=spec_from_config(config),
        backend=backend,
        depth_range=settings.depth_range,
        denoise=settings.denoise,
    )
    if settings.backend == "auto":
        print(f"Running by {predictor.backend} in {predictor.precision}.")
    elif predictor.precision not in (settings.precision, "int8"):
        print(f"{settings.precision} is not faster on this {predictor.device}: using {predictor.precision}.")
    return predictor
