"""
The flags of a running runtime as a provider of OpenFeature, evaluated in the calling process.

    from openfeature import api
    from wicketgate.openfeature import RuntimeProvider

    api.set_provider(RuntimeProvider(config="runtime.yaml"))

It reads the runtime's configuration and ledger and watches both; it writes neither, and no server is asked.
`targeting_key` is what a request's own key is to the gateway; the attributes `client` and `connection` are
the id of its API key and its `address:port`. A rollback shows once it is in the ledger, milliseconds after
the gateway itself has obeyed it. The gateway does not use this: a decision through the SDK costs as much as
fifty of its own.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rollout.evaluation import evaluate
from rollout.spec import did_you_mean
from wicketgate.config import ConfigurationFaultsError, RuntimeConfig, Watcher, load
from wicketgate.flags import POLL_S, FlagBoard, FlagSnapshot
from wicketgate.ledger import FILE_NAME, Ledger
from wicketgate.platform import default_state_dir, sqlite_needs_fullfsync

try:
    from openfeature.event import ProviderEventDetails
    from openfeature.exception import (
        FlagNotFoundError,
        InvalidContextError,
        ProviderNotReadyError,
        TargetingKeyMissingError,
        TypeMismatchError,
    )
    from openfeature.flag_evaluation import FlagResolutionDetails, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ModuleNotFoundError as error:
    raise ImportError(
        "wicketgate.openfeature needs the OpenFeature SDK: pip install 'wicketgate[openfeature]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openfeature.evaluation_context import EvaluationContext

    from wicketgate.ledger import Watch

log = logging.getLogger(__name__)


class RuntimeProvider(AbstractProvider):
    """
    Evaluates the features of one runtime; all are boolean.

    Args:
        config: The runtime's configuration file; None where it runs without one.
        state_dir: Its state folder; None is what the configuration says.
        poll_s: How often ledger and configuration are looked at.
    """

    def __init__(
        self,
        config: Path | str | None = None,
        *,
        state_dir: Path | str | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__()
        self._config = None if config is None else Path(config)
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._board: FlagBoard | None = None
        self._is_stale = False

    def get_metadata(self) -> Metadata:
        """Name the provider."""
        return Metadata(name="wicketgate")

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002
        """
        Read configuration and ledger, and begin to watch them.

        Raises:
            ConfigurationFaultsError: the configuration cannot be used.
        """
        watcher = None if self._config is None else Watcher(self._config)
        config = load(self._config)
        folder = self._state_dir or config.state_dir or default_state_dir(config.name)
        ledger = Ledger(folder / FILE_NAME, fullfsync=sqlite_needs_fullfsync())
        self._board = FlagBoard(config.rollout, ledger)
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._follow, args=(self._board, ledger, watcher), name="wicketgate-flags", daemon=True
        )
        self._thread.start()

    def shutdown(self) -> None:
        """Stop watching; evaluations go on with what was known last."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: ARG002
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """
        Decide a feature as the gateway would for a request with the context's keys.

        Raises:
            FlagNotFoundError: no such feature.
            TargetingKeyMissingError: it is on for some keys, and the context has none.
            InvalidContextError: `client` or `connection` is no text.
        """
        snapshot = self._snapshot(flag_key)
        key = evaluation_context.targeting_key if evaluation_context is not None else None
        attributes = evaluation_context.attributes if evaluation_context is not None else {}
        evaluation = evaluate(
            snapshot,
            flag_key,
            key or None,
            client=_text(attributes, "client"),
            connection=_text(attributes, "connection"),
        )
        if evaluation.missing is not None:
            raise TargetingKeyMissingError(evaluation.complaint)
        return FlagResolutionDetails(
            value=evaluation.on,
            variant=evaluation.variant,
            reason=Reason(evaluation.reason.value),
            flag_metadata=evaluation.metadata(),
        )

    def _refuse(
        self,
        flag_key: str,
        default_value: object,  # noqa: ARG002 - the SDK's signature, here and below
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002
    ) -> NoReturn:
        """Refuse another type: features are boolean."""
        self._snapshot(flag_key)
        raise TypeMismatchError(f"{flag_key} is a feature, which is boolean")

    resolve_string_details = _refuse
    resolve_integer_details = _refuse
    resolve_float_details = _refuse
    resolve_object_details = _refuse

    def _snapshot(self, flag_key: str) -> FlagSnapshot:
        if self._board is None:
            raise ProviderNotReadyError("the provider was not initialized")
        snapshot = self._board.snapshot
        if flag_key not in snapshot.spec.features:
            hint = did_you_mean(flag_key, snapshot.spec.features)
            raise FlagNotFoundError(f"no feature named {flag_key}.{hint}")
        return snapshot

    def _follow(self, board: FlagBoard, ledger: Ledger, watcher: Watcher | None) -> None:
        watch = ledger.watch()
        try:
            while not self._stopping.wait(self._poll_s):
                try:
                    self._look(board, watch, watcher)
                except Exception:  # the watcher must outlive whatever a client's event handler raises
                    log.exception("flags_watch_failed")
        finally:
            watch.close()

    def _look(self, board: FlagBoard, watch: Watch, watcher: Watcher | None) -> None:
        """Take up what changed, and tell the SDK."""
        before = board.snapshot.shares
        match watcher.poll() if watcher is not None else None:
            case RuntimeConfig() as config:
                board.replace_spec(config.rollout)
            case ConfigurationFaultsError() as refused:  # what was declared before stays in force
                log.warning("configuration_refused", extra={"faults": refused.message})
        board.look(watch)
        after = board.snapshot.shares
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        if changed:
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=changed))
        if self._is_stale != (board.problem is not None):
            self._is_stale = not self._is_stale
            if self._is_stale:
                self.emit_provider_stale(ProviderEventDetails(message=board.problem))
            else:
                self.emit_provider_ready(ProviderEventDetails())


def _text(attributes: Mapping[str, object], name: str) -> str | None:
    """Return an attribute that is a key; an empty one counts as none."""
    value = attributes.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidContextError(f"the attribute {name} must be a string")
    return value or None
