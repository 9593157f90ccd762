"""What a person can choose about RelayMesh, as one frozen typed value: defaults, TOML file, environment, flags."""

from dataclasses import dataclass, field
from typing import Literal

UNLIMITED = 0


@dataclass(frozen=True, slots=True)
class Network:
    """Which relays to use, and whom to connect to.

    Args:
        relays: Nostr relays, best first; several at once, and one dead one does no harm.
        allow_private: Also connect to nodes on loopback and private addresses: for a network of one's own.
    """

    relays: tuple[str, ...] = ("ws://127.0.0.1:7777",)
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """Where keys and ledger are kept.

    Args:
        directory: The folder; empty takes the system's usual place for application data.
    """

    directory: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """What the ledger is kept in.

    Args:
        ledger: `postgresql://user@host:5432/database` keeps it in that database, in the schemas `relaymesh_client`,
            `relaymesh_node` and `relaymesh_router`, or others with `?search_path=`; empty keeps it in files in the
            folder. A password is better kept in PostgreSQL's own password file.
    """

    ledger: str = ""


@dataclass(frozen=True, slots=True)
class Wallet:
    """Which Lightning wallet pays and is paid.

    Args:
        lightning_rpc: The JSON-RPC socket of a Core Lightning node, or of `relaymesh lightning serve`; empty is none.
        connection_file: A file with a wallet connection (NIP-47), or with LND's address, macaroon and certificate
            (lndconnect), kept by `relaymesh wallet connect`; empty is none.
        base_fee_msat: Routing fees up to this are always accepted.
        fee_ppm: Beyond that, so many millionths of the amount.
        maximum_job_msat: The most that one job may cost, or one session that is paid for in advance, with its fees; 0
            for no limit.
        maximum_hour_msat: The most that may be spent in any 60 minutes, on jobs, on routers and by `relaymesh wallet
            pay`; 0 for no limit.
        maximum_day_msat: The same in any 24 hours.
        payment_seconds: How long a payment may take before its outcome counts as unknown and is looked up.
    """

    lightning_rpc: str = ""
    connection_file: str = ""
    base_fee_msat: int = 5_000
    fee_ppm: int = 10_000
    maximum_job_msat: int = 1_000_000
    maximum_hour_msat: int = 10_000_000
    maximum_day_msat: int = 50_000_000
    payment_seconds: int = 30


@dataclass(frozen=True, slots=True)
class Client:
    """How a buyer chooses.

    Args:
        max_msat: The most one job may cost, unless the command says otherwise.
        output_tokens: The most output one job may have, unless the command says otherwise.
        candidates: How many nodes are asked for a quote.
        discovery_seconds: How long to wait for a node that can serve.
        maximum_pow_bits: The most proof of work to do for a request.
        way: How a session is asked for: `directed` asks the best nodes for quotes, `open` calls for bids, `posted` asks
            for a session at the best node's posted price; `auto` does the last where the best node is known and
            clearly the best, and asks for quotes otherwise; `routed` lets `routers` ask nodes for bids, which `auto`
            does as well where there are some.
        routers: Routers to ask, by npub; their rankings are computed again and compared with the client's own.
        policy: What counts among nodes: `balanced`, `cheapest`, `fastest` or `trusted`.
        maximum_router_fee_msat: The most that one ranking may cost; routers that want more are not paid.
        trusted: The keys (npub or hex) whose word about nodes counts: their assertions are followed.
        newcomer_msat: What a job may cost at a node that nobody has seen work; more with every job it serves.
        settlement: How jobs are paid: `prepay` ahead and in tranches, `sealed` for encrypted output whose key is the
            payment's preimage, `postpay` on credit, `session` from what a session prepays; any of these is required,
            and nothing else taken. `auto` takes `sealed` with nodes that are not known, `prepay` where somebody reads
            along and with nodes that have served well.
        maximum_exposure_msat: The most to have at stake with a node at once; 0 sets no limit.
        credit_key_file: A key file, as `relaymesh keys new` makes it, whose key nodes know and give credit to; it is
            used for nothing but to vouch for sessions with `postpay`. Empty has no credit.
    """

    max_msat: int = 100_000
    output_tokens: int = 256
    candidates: int = 3
    discovery_seconds: int = 5
    maximum_pow_bits: int = 20
    way: Literal["auto", "directed", "open", "posted", "routed"] = "auto"
    routers: tuple[str, ...] = ()
    policy: Literal["balanced", "cheapest", "fastest", "trusted"] = "balanced"
    maximum_router_fee_msat: int = 0
    trusted: tuple[str, ...] = ()
    newcomer_msat: int = 100_000
    settlement: Literal["auto", "prepay", "sealed", "postpay", "session"] = "auto"
    maximum_exposure_msat: int = 0
    credit_key_file: str = ""


@dataclass(frozen=True, slots=True)
class Surge:
    """How far posted prices follow the load; by default not at all.

    Args:
        minimum_permille: What an idle node asks, in thousandths of its prices.
        maximum_permille: What a node without any room asks, in thousandths of its prices.
        step_permille: Prices move by so much at once, or not at all.
        interval_seconds: Between two changes of the offer at the least; an offer then stands for three times that.
    """

    minimum_permille: int = 1_000
    maximum_permille: int = 1_000
    step_permille: int = 100
    interval_seconds: int = 120


@dataclass(frozen=True, slots=True)
class Node:
    """What a node sells, and how.

    Args:
        label: The offer's name; one node may publish several.
        host: The address on which clients connect.
        port: The port on which clients connect; 0 takes a free one.
        announce: The endpoints that clients are told, where they differ from host and port (a proxy, Tor).
        runner: `auto` looks for a model server on this machine; `openai` uses `runner_url`; `embedded` runs the model
            that is part of the package.
        runner_url: An OpenAI-compatible API, for example `http://localhost:11434/v1`.
        runner_key_file: A file with the API key, where the server wants one.
        models: Only these of the runner's models; empty sells all.
        unit: What is counted: `byte` can be checked by every buyer, `token` is the runner's word.
        per: How many units the prices are for.
        input_msat: The price of `per` input units.
        output_msat: The price of `per` output units.
        minimum_msat: What a job costs at least.
        output_tokens: The longest output of one job.
        capabilities: What the model server does beyond plain text, and may be asked for: `tools`, `json`, `images`.
        settlement: How jobs may be paid, in order of preference: `prepay`, `sealed`, `postpay`, `session`.
        tranche_units: Output units that are paid at once, with `prepay` before they are delivered and with `postpay`
            after; 0 makes the whole job one tranche.
        sealed_tranche_units: The same with `sealed`: output units that are encrypted together and paid together.
        session_tranche_msat: What a session prepays at once with `session`.
        max_unpaid_unknown_msat: The most that all jobs together which are under way with `sealed` may cost if nobody
            pays; beyond it the node asks for `prepay`.
        credit_keys: The keys (npub or hex) that get credit with `postpay`, which `settlement` must list.
        credit_msat: How much each of them gets; what a key never paid is less of it, `relaymesh node debts` shows it.
        forgiven_jobs: Jobs, by id, whose debts count no longer.
        maximum_jobs: Jobs at the same time.
        queue: Jobs that may wait for a place; 0 refuses at once whoever finds none free.
        queue_per_client: Of these, jobs of one client.
        queue_seconds: How long a job may wait; clients wait 10 s for their first output, payment included.
        open_requests_per_second: How many calls for bids are looked at; 0 makes the node bid for none.
        open_pow_bits: The least proof of work of such a call.
        output_tokens_per_second: Slows every job down to this, to leave the machine to others; 0 does not.
        heartbeat_seconds: Between two statuses; public relays limit what one address may publish.
        offer_hours: How long an offer stands before it must be renewed (which happens by itself).
        region: A region to announce, or empty.
        pow_bits: Proof of work that requests must carry (NIP-13).
    """

    label: str = "main"
    host: str = "127.0.0.1"
    port: int = 7780
    announce: tuple[str, ...] = ()
    runner: Literal["auto", "openai", "embedded"] = "auto"
    runner_url: str = ""
    runner_key_file: str = ""
    models: tuple[str, ...] = ()
    unit: Literal["byte", "token", "job"] = "byte"
    per: int = 1_000
    input_msat: int = 20
    output_msat: int = 200
    minimum_msat: int = 1_000
    output_tokens: int = 1_024
    capabilities: tuple[Literal["tools", "json", "images"], ...] = ()
    settlement: tuple[Literal["prepay", "sealed", "postpay", "session"], ...] = ("prepay", "sealed", "session")
    tranche_units: int = 1_024
    sealed_tranche_units: int = 4_096
    session_tranche_msat: int = 20_000
    max_unpaid_unknown_msat: int = 1_000_000
    credit_keys: tuple[str, ...] = ()
    credit_msat: int = 100_000
    forgiven_jobs: tuple[str, ...] = ()
    maximum_jobs: int = 2
    queue: int = 8
    queue_per_client: int = 2
    queue_seconds: int = 5
    open_requests_per_second: int = 100
    open_pow_bits: int = 16
    output_tokens_per_second: int = UNLIMITED
    heartbeat_seconds: int = 120
    offer_hours: int = 1
    region: str = ""
    pow_bits: int = 0
    surge: Surge = field(default_factory=Surge)


@dataclass(frozen=True, slots=True)
class Router:
    """How a router ranks, and how much it lets strangers ask.

    Args:
        policy: The policy it ranks by where a client names none: `balanced`, `cheapest`, `fastest` or `trusted`.
        pow_bits: Proof of work that requests must carry (NIP-13).
        fee_msat: What a ranking costs; 0 is nothing, anything else needs a wallet.
        maximum_asks: To so many nodes one request is passed on at the most.
        requests_per_second: All strangers together; more are refused as `rate-limited`.
        announcement_hours: How long the announcement stands before it must be renewed (which happens by itself).
    """

    policy: Literal["balanced", "cheapest", "fastest", "trusted"] = "balanced"
    pow_bits: int = 0
    fee_msat: int = 0
    maximum_asks: int = 8
    requests_per_second: int = 1_000
    announcement_hours: int = 1


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where programs ask, in the shape of the OpenAI API, and who may.

    Args:
        host: The address on which programs connect.
        port: The port on which programs connect; 0 takes a free one.
        allow_remote: Also listen on an address that other machines reach; needs `keys_file`.
        keys_file: A TOML file of API keys and their budgets, as `relaymesh gateway add-key` writes it; empty lets every
            program on this machine ask.
        origins: Web pages that may ask, as `https://example.org`, or `null` for a page in a file.
        maximum_requests: Requests at the same time; more are told to come again.
        sessions: So many sessions stay open without a job, for the next one.
        session_seconds: So long each of them does.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    allow_remote: bool = False
    keys_file: str = ""
    origins: tuple[str, ...] = ()
    maximum_requests: int = 256
    sessions: int = 8
    session_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything."""

    network: Network = field(default_factory=Network)
    files: Files = field(default_factory=Files)
    storage: Storage = field(default_factory=Storage)
    wallet: Wallet = field(default_factory=Wallet)
    client: Client = field(default_factory=Client)
    node: Node = field(default_factory=Node)
    router: Router = field(default_factory=Router)
    gateway: Gateway = field(default_factory=Gateway)
