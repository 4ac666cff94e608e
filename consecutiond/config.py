"""The one definition of every option: its name, default, range, unit and meaning."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from consecutiond_broker.errors import ConsecutiondError


class ConfigError(ConsecutiondError):
    """Options are wrong; the text names every one of them."""


class Settings(BaseSettings):
    """All options of a consecutor. Each can be set in code or as ``CONSECUTIOND_NAME`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="CONSECUTIOND_", extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field("", description="name of the consecutor and of its directory; default: the target's name")
    dir: Path = Field(Path(".consecution"), description="where the directories of consecutors are")
    architecture: Literal["process", "thread"] = Field(
        "process", description="`process`: each part in a supervised process; `thread`: all in the calling process"
    )
    # NoDecode: in the environment it is the plain text, not JSON.
    input: Annotated[str | tuple[str, ...], NoDecode] = Field(
        "",
        description="where items come from, one of: `stdin`; files; `http://host:port`, which is POSTed to; "
        "`tcp://host:port` or `ipc://path`, for ZeroMQ clients",
    )
    input_format: Literal["lines", "ndjson", "msgpack"] = Field(
        "lines",
        description="what stdin and files hold: `lines` of text, each an item without its end; `ndjson`: a JSON value "
        "on each line; `msgpack` values, one after the other",
    )
    tracking: bool = Field(
        True,
        description="`false`: nothing is recorded and nothing tracked, so each item is processed at most once; what "
        "fails or is in a part that dies is counted and gone; faster; the same as `acker_store = off`",
    )
    store: str = Field(
        "sqlite",
        description="the input log: `sqlite` or `kyoto` (files in the directory), `sqlite:////path`, `kyoto:////path`, "
        "`redis://host:port/db`, `rediss://…`, `unix:///socket` or `memory://`",
    )
    acker_store: Literal["off", "memory", "disk"] = Field(
        "disk",
        description="where the acker's accounts are, that is which inputs are done, attempts and failed items: `disk` "
        "is in `store`; `memory`: each start begins them anew; `off`: nothing is tracked, as with `tracking = false`",
    )
    input_store: Literal["off", "memory", "disk"] = Field(
        "disk",
        description="where the values of inputs are kept until they are done, so that they can be tried again: `disk` "
        "is in `store`; `memory`: those that are open when the acker dies are lost, which is told; `off`: nowhere, so "
        "what fails cannot be tried again",
    )
    durability: Literal["durable", "fast"] = Field(
        "durable",
        description="`durable`: on disk before the receipt; `fast`: a power cut may take what the system had not yet "
        "written",
    )
    retain_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=True,
        description="seconds that completed inputs are kept in the log, to be listed and replayed with `consecutiond "
        "log`; 0: forgotten at once; `inf`: for ever",
    )
    max_pending: int = Field(20_000, ge=1, description="open roots at which emission stops")
    max_backlog: int = Field(8 << 20, ge=1024, description="bytes recorded and not emitted at which producers wait")
    max_attempts: int = Field(3, ge=1, description="failures after which a root is kept as failed")
    retry_backoff_s: float = Field(0.1, ge=0, description="seconds before the second attempt; doubled each time")
    retry_backoff_max_s: float = Field(60.0, ge=0, description="seconds between attempts at the utmost")
    timeout_s: float = Field(0.0, ge=0, description="seconds that one `process` may take before its item fails; 0: any")
    max_age_s: float = Field(
        0.0, ge=0, description="seconds after its acceptance in which a root may be tried; 0: any number"
    )
    exhausted: Literal["dead-letter", "drop", "stop"] = Field(
        "dead-letter",
        description="what becomes of a root that is given up: `dead-letter` keeps it for an operator; `drop` counts "
        "and forgets it; `stop` keeps it and stops the consecutor",
    )
    batch_items: int = Field(1024, ge=1, le=4096, description="items in one message at the utmost")
    batch_bytes: int = Field(1 << 20, ge=1024, description="bytes aimed at for one message")
    batch_s: float = Field(0.02, gt=0, description="seconds of work aimed at for one message")
    max_message: int = Field(48 << 20, ge=1 << 16, description="bytes of the largest single value")
    edge_window: int = Field(4, ge=1, description="messages that each sender may have queued at a broker")
    worker_window: int = Field(3, ge=1, description="messages in a worker's hands per incoming edge")
    remote_uri: str = Field(
        "",
        description="where workers on other machines find this one, `tcp://ADDRESS:PORT`; the ports above it are taken "
        "too: one, and one for each edge of a remote node that has no uri of its own",
    )
    remote_silence_s: float = Field(
        5.0, ge=0.5, le=600, description="seconds of silence after which a remote worker is taken for lost"
    )
    heartbeat_s: float = Field(0.5, gt=0, le=60, description="seconds between heartbeats")
    start_timeout_s: float = Field(60.0, gt=0, description="seconds until every part must be up")
    stall_s: float = Field(
        60.0, gt=0, description="seconds without progress after which a graph that has work is `stalled`"
    )
    restart_limit: int = Field(
        12,
        ge=0,
        description="early deaths within `restart_window_s` after which a worker, the input or the output is not "
        "started again until `consecutiond restart`; 0: started for ever",
    )
    restart_window_s: float = Field(300.0, gt=0, description="seconds in which `restart_limit` counts early deaths")
    stop_timeout_s: float = Field(60.0, gt=0, description="seconds that a stop may drain before parts are killed")

    @property
    def uses_store(self) -> bool:
        """Whether anything is in `store`."""
        return self.tracking and "disk" in (self.acker_store, self.input_store)

    @model_validator(mode="after")
    def _say_off_once(self) -> Self:
        """`tracking = false` and `acker_store = "off"` are one; with either no value is kept."""
        given = self.model_fields_set
        if self.tracking == (self.acker_store == "off"):
            if {"tracking", "acker_store"} <= given:
                told = f"tracking = {str(self.tracking).lower()} and acker_store = {self.acker_store}"
                raise ValueError(f'{told} contradict each other: tracking = false is acker_store = "off"; give one')
            self._follow(tracking=False, acker_store="off")
        if not self.tracking and self.input_store != "off":
            if "input_store" in given:
                raise ValueError(
                    f"input_store = {self.input_store} is of no use with acker_store = off (tracking = false): nobody "
                    "knows which inputs to try again. Leave input_store out, or set it to off"
                )
            self._follow(input_store="off")
        return self

    @model_validator(mode="after")
    def _retain_in_the_store(self) -> Self:
        """What is kept is in the store, with the accounts that tell what was completed."""
        if self.retain_s and (self.acker_store, self.input_store) != ("disk", "disk"):
            raise ValueError(
                f"retain_s = {self.retain_s:g} keeps inputs in the store, and needs acker_store = disk and input_store "
                f"= disk there; they are {self.acker_store} and {self.input_store}. Leave retain_s out, or these two"
            )
        return self

    @property
    def followed(self) -> tuple[str, ...]:
        """The options that nobody gave, and that are not at their default, because they follow from another one."""
        names = ("tracking", "acker_store", "input_store")
        fields = type(self).model_fields
        return tuple(
            name for name in names
            if name not in self.model_fields_set and getattr(self, name) != fields[name].default
        )  # fmt: skip

    def _follow(self, **values: Any) -> None:
        """Give options the values that follow from others."""
        # The model is frozen for everybody else; and what follows was not given.
        self.__dict__.update(values)

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        """Children run elsewhere, so the path is made absolute where it is given."""
        return value.expanduser().absolute()

    @field_validator("remote_uri")
    @classmethod
    def _address(cls, value: str) -> str:
        from consecutiond_nodes.endpoints import fault_of, normal

        fault = fault_of(value) if value else ""
        if value.startswith("ipc:"):
            fault = f"{value!r} is a socket that no other machine reaches"
        if fault:
            raise ValueError(f"{fault}; write tcp://10.0.0.1:7000")
        return normal(value) if value else value

    @field_validator("id")
    @classmethod
    def _legal(cls, value: str) -> str:
        from consecutiond.rundir import RunDirError, check_id

        try:
            return check_id(value) if value else value
        except RunDirError as error:
            raise ValueError(str(error)) from None
