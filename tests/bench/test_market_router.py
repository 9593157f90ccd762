"""The router's figures are those that were promised; nothing here looks at how fast anything is."""

from bench.market_router import measure_router


def test_the_whole_and_its_parts_are_measured() -> None:
    figures = {figure.name: figure for figure in measure_router(1, requests=4, nodes=12)}
    assert set(figures) == {
        "router_request_cpu_us",
        "router_verify_cpu_us",
        "router_open_cpu_us",
        "router_rank_cpu_us",
        "router_seal_and_sign_cpu_us",
        "router_requests_per_core_second",
    }
    whole = figures["router_request_cpu_us"]
    assert (whole.goal, whole.better, whole.unit) == (2_000, "lower", "us")
    assert (figures["router_requests_per_core_second"].goal, figures["router_requests_per_core_second"].better) == (
        500,
        "higher",
    )
    assert all(figure.value > 0 for figure in figures.values())
