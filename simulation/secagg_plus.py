"""What does Flower's SecAgg+ cost? Its own workflow and its own client mod, with every hospital in this process.

Nothing of it is replaced: keys, Shamir's pieces, quantisation, masks, and the strategy that gets the mean are Flower's.
Messages are handed over as they are, for no network is measured here.

Its masks are weaker than its keys: ``pseudo_rand_gen`` folds 32 bytes of secret into 32 bits and seeds NumPy's Mersenne
Twister with them, so that whoever sees a masked vector can try all masks there are. Its seconds buy less than ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import FitIns, FitRes, Parameters, Scalar, ndarrays_to_parameters
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.typing import Code, Status
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server import LegacyContext
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from torch import Tensor

from simulation.inline import InlineGrid
from simulation.local_grid import server_context
from simulation.spent import SERVER, Spent

_WEIGHT = 1000  # patients of each; also SecAgg+'s default for the most
_STEP = 2 * 8.0 / 2**22  # of its default quantisation
RANGE = 8.0  # to which it cuts values by default


def secagg_plus_sum(vector_n: Tensor, hospitals: int, threshold: int) -> Spent:
    """One session, in which the last hospital drops out before it masks; all have the same vector.

    Args:
        vector_n: float32 (n,), within ``RANGE``.
        hospitals: 3 or more.
        threshold: how many can open a mask together.
    """
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    spent, reply = Spent(), _trained(vector_n)
    app = ClientApp(mods=[_timed(spent, hospitals), secaggplus_mod])
    app.train()(lambda message, _: Message(fitres_to_recorddict(reply, keep_input=True), reply_to=message))
    grid = InlineGrid(app, hospitals)
    context = LegacyContext(server_context(), strategy=_Everybody(grid))
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(Parameters([], ""), keep_input=True)
    start = time.process_time()
    SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=threshold)(grid, context)
    spent.seconds[SERVER] = time.process_time() - start - spent.whole
    _check(context, vector_n)
    return spent


def _trained(vector_n: Tensor) -> FitRes:
    """What a hospital's training would hand to the mod."""
    return FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector_n.numpy()]), _WEIGHT, {})


def _timed(spent: Spent, hospitals: int) -> Callable[[Message, Context, Callable[..., Message]], Message]:
    """A mod around SecAgg+'s: whose seconds they are; and the last hospital is gone when vectors are collected."""

    def mod(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
        said = message.content.config_records[RECORD_KEY_CONFIGS]
        last = context.node_config["partition-id"] == hospitals - 1
        if last and said[Key.STAGE] == Stage.COLLECT_MASKED_VECTORS:
            return Message(Error(ErrorCode.UNKNOWN), reply_to=message)
        # One record goes to all, and the mod takes fields out of it: over a network each would have its own.
        message.content = RecordDict(dict(message.content) | {RECORD_KEY_CONFIGS: ConfigRecord(dict(said))})
        with spent.by(str(context.node_id)):
            return call_next(message, context)

    return mod


class _Everybody(FedAvg):
    """Asks all nodes, sends no model, and takes the mean as SecAgg+ computed it: averaging is not what is measured."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._grid = grid

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """All, whoever the client manager knows."""
        nodes = self._grid.get_node_ids()
        return [(GridClientProxy(node, self._grid, 1), FitIns(Parameters([], ""), {})) for node in nodes]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """The mean, which the workflow has written into every result."""
        return results[0][1].parameters, {}


def _check(context: LegacyContext, vector_n: Tensor) -> None:
    """A benchmark of a wrong mean says nothing; each hospital rounds by less than a step."""
    [array] = context.state.array_records[MAIN_PARAMS_RECORD].values()
    off = np.abs(array.numpy() - vector_n.numpy()).max()
    assert off <= 2 * _STEP, "the mean is wrong"
