"""What an operator can choose, as frozen typed values, read from one TOML file (`relay/relay.example.toml`)."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from relaymesh.configuration import MAXIMUM_PORT, build_settings, parse_document
from relaymesh.errors import UsageError
from relaymesh.nostr.event import is_hex_32
from relaymesh_relay.addresses import check_networks


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the relay says it is (NIP-11).

    Args:
        name: Shown to people.
        description: A sentence or two about the relay.
        contact: A URL at which its operator is reached, or empty.
        public_key: The operator's key in 64 lowercase hex characters, or empty.
        icon: A link to a square picture, or empty.
        terms_of_service: A link to the terms, or empty.
        url: The address that clients use, needed for NIP-42 behind a proxy; empty takes what the client asked for.
    """

    name: str = "RelayMesh relay"
    description: str = "A Nostr relay for the RelayMesh market."
    contact: str = ""
    public_key: str = ""
    icon: str = ""
    terms_of_service: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """Where the relay listens, and how much of the machine its connections may take.

    Args:
        host: The address to listen on.
        port: The TCP port; 0 takes a free one.
        connections: Open connections altogether.
        connections_per_address: Open connections from one address; loopback is exempt while `exempt_loopback` holds.
        unsent_bytes: Bytes waiting for a client that does not read; above it the connection is cut.
        handshake_seconds: How long a client may take for its HTTP request.
        ping_seconds: After this much silence a ping is sent; after as much again the connection is cut.
        exempt_loopback: Whether clients on this machine are free of per-address limits and of rates.
        address_header: The HTTP header in which a trusted proxy names the client's address; empty trusts none.
        metrics_readers: Addresses and networks that may read /metrics, beside this machine itself.
    """

    host: str = "127.0.0.1"
    port: int = 7777
    connections: int = 20_000
    connections_per_address: int = 100
    unsent_bytes: int = 16 * 1024 * 1024
    handshake_seconds: int = 10
    ping_seconds: int = 60
    exempt_loopback: bool = True
    address_header: str = ""
    metrics_readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """How events are kept.

    Args:
        file: The SQLite file; made when it is not there. `:memory:` keeps events in memory, until the relay stops.
        synchronous: `FULL` answers OK when the event is on the disk; `NORMAL` when it is with the operating system,
            which survives a crash of the relay but not of the machine.
        cache_megabytes: SQLite's page cache, for each of its connections.
        sweep_seconds: How often expired events are removed from the file (NIP-40).
    """

    file: str = "relay.sqlite3"
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    cache_megabytes: int = 32
    sweep_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of everything a client controls; NIP-11 announces those it has a word for.

    Args:
        message_bytes: Longest WebSocket message; a longer one ends the connection with code 1009.
        subscriptions: Open subscriptions on one connection.
        subscription_id_characters: Longest subscription id.
        filters: Filters in one REQ or COUNT.
        filter_values: Ids, authors, kinds and tag values in one filter altogether.
        limit: Stored events for one filter; a larger `limit` is brought down to it.
        default_limit: Stored events for a filter that gives no `limit`.
        event_tags: Tags of one event.
        content_characters: Characters of one event's content.
        created_at_past_seconds: How old an event may be; 0 is any age.
        created_at_future_seconds: How far ahead of our clock an event may be.
        proof_of_work_bits: Leading zero bits that every event's id must have (NIP-13); 0 asks for none.
        proof_of_work_by_kind: Pairs of a kind and the bits that its events must have instead.
        pending: Events and requests of one connection that may wait for their answer; reading pauses beyond.
    """

    message_bytes: int = 131_072
    subscriptions: int = 256
    subscription_id_characters: int = 64
    filters: int = 20
    filter_values: int = 2_000
    limit: int = 50_000
    default_limit: int = 50_000
    event_tags: int = 2_000
    content_characters: int = 65_536
    created_at_past_seconds: int = 0
    created_at_future_seconds: int = 900
    proof_of_work_bits: int = 0
    proof_of_work_by_kind: tuple[tuple[int, int], ...] = ()
    pending: int = 1_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Token buckets per connection and per address: so many a second, and so many at once; 0 a second is no limit.

    Args:
        events_per_second: Events that one connection may send.
        events_burst: Events that it may send at once.
        requests_per_second: REQ and COUNT messages of one connection.
        requests_burst: The same, at once.
        address_events_per_second: Events from one address, over all of its connections.
        address_events_burst: The same, at once.
    """

    events_per_second: int = 200
    events_burst: int = 2_000
    requests_per_second: int = 100
    requests_burst: int = 1_000
    address_events_per_second: int = 500
    address_events_burst: int = 5_000


@dataclass(frozen=True, slots=True)
class Access:
    """Who may write and read what.

    Args:
        allowed_kinds: Only these kinds are taken; empty takes all.
        denied_kinds: These kinds are refused.
        allowed_authors: Only these authors' events are taken; empty takes everybody's.
        denied_authors: These authors' events are refused.
        members: Only these authors may write, but for wallet connections (NIP-47: 13194, 23194 to 23197) and for
            ephemeral events and gift wraps (1059) to a member; empty, with no file, makes everybody a member.
        members_file: A file with more members, one key a line; empty names none.
        administrators: Who may manage the relay over HTTP (NIP-86, NIP-98); empty switches that off.
        authenticate_to_write: Events are taken only on connections that authenticated (NIP-42).
        authenticate_to_read: REQ and COUNT are answered only on connections that authenticated (NIP-42).
        private_to_recipients: Direct messages and gift wraps (kinds 4, 1059) go only to author and recipients (NIP-42).
        mute_unheard: An ephemeral event that nobody waits for is answered `mute:` instead of OK.
    """

    allowed_kinds: tuple[int, ...] = ()
    denied_kinds: tuple[int, ...] = ()
    allowed_authors: tuple[str, ...] = ()
    denied_authors: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    members_file: str = ""
    administrators: tuple[str, ...] = ()
    authenticate_to_write: bool = False
    authenticate_to_read: bool = False
    private_to_recipients: bool = True
    mute_unheard: bool = True


@dataclass(frozen=True, slots=True)
class Negentropy:
    """Comparing what a client has with what the relay has, without sending either (NIP-77).

    Args:
        enabled: Whether it is offered.
        comparisons: Open comparisons on one connection.
        records: Events in one comparison.
        records_together: Events in all open comparisons; each takes about 45 bytes of memory.
        frame_bytes: Longest answer, 4096 at least; it is sent in hex, which doubles it.
        idle_seconds: How long a comparison is kept for a client that says nothing more.
    """

    enabled: bool = True
    comparisons: int = 8
    records: int = 500_000
    records_together: int = 2_000_000
    frame_bytes: int = 60_000
    idle_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can choose."""

    identity: Identity = field(default_factory=Identity)
    network: Network = field(default_factory=Network)
    storage: Storage = field(default_factory=Storage)
    limits: Limits = field(default_factory=Limits)
    rates: Rates = field(default_factory=Rates)
    access: Access = field(default_factory=Access)
    negentropy: Negentropy = field(default_factory=Negentropy)


def read_settings(path: Path) -> Settings:
    """The settings in a TOML file, one table per section; what it leaves out keeps its default.

    Raises:
        UsageError: The file cannot be read, is not TOML, or holds an unknown name or a value of the wrong form.
    """
    settings = build_settings(parse_document(_read_text(path, "settings"), str(path)), Settings)
    check_networks(settings.network.metrics_readers, "network.metrics_readers")
    access = settings.access
    if access.members_file:
        lines = _read_text(Path(access.members_file), "members").splitlines()
        keys = tuple(key for key in (line.partition("#")[0].strip() for line in lines) if key)
        if not keys:  # which would let everybody write
            raise UsageError(f"the relay's members file {access.members_file} names nobody; list a key or leave it out")
        access = replace(access, members=access.members + keys)
    for name in ("allowed_authors", "denied_authors", "members", "administrators"):
        _check_keys(f"access.{name}", getattr(access, name))
    return replace(settings, access=access)


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the relay's {what} cannot be read from {path}: {reason}") from error


def _check_keys(setting: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not is_hex_32(key):
            raise UsageError(f"the setting {setting} must hold public keys in 64 lowercase hex characters, not {key}")


def choose_settings(config: Path | None, *, host: str | None, port: int | None, database: Path | None) -> Settings:
    """The settings of a file, or the defaults, with what the command line said on top; UsageError as above."""
    settings = Settings() if config is None else read_settings(config)
    network, storage = settings.network, settings.storage
    if host is not None:
        if not host:  # which a socket would take for every address
            raise UsageError("a host must name an address, for example 127.0.0.1")
        network = replace(network, host=host)
    if port is not None:
        if not 0 <= port <= MAXIMUM_PORT:
            raise UsageError(f"a port must be 0 to {MAXIMUM_PORT}, not {port}")
        network = replace(network, port=port)
    if database is not None:
        storage = replace(storage, file=str(database))
    return replace(settings, network=network, storage=storage)
