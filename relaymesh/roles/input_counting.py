"""How much input a JOB has, by the node's runner, before anything is promised or paid (RM-02, "Jobs")."""

from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.runners import RunRequest
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import JobMessage
from relaymesh.roles.containment import report
from relaymesh.roles.node_tools import NodeTools


async def count_input(tools: NodeTools, contract: SessionContract, model: str, message: JobMessage) -> int | Refusal:
    """Input tokens as the runner counts them, 0 where it cannot and need not; or why the job is refused."""
    request = RunRequest(model, message.job_type, message.body, contract.quote.row.output_limit)
    try:
        if tools.is_runner_suspect:
            await tools.runner.models()
            tools.is_runner_suspect = False
        tokens = await tools.runner.count_input_tokens(request)
    except RunnerRefused as error:
        return refuse(RefusalCode.UNSUPPORTED_PARAMETER, str(error))
    except RunnerError as error:
        report("runner", error)
        return refuse(RefusalCode.RUNNER_UNAVAILABLE, "the node's runner does not answer; try another node")
    if tokens is None and contract.quote.row.unit == "token":
        return refuse(RefusalCode.INTERNAL, "the node prices by the token but cannot count them")
    if not 0 <= (tokens or 0) <= MAXIMUM_QUANTITY:
        return refuse(RefusalCode.RUNNER_FAILED, "the runner counted a number of input tokens that cannot be")
    return tokens or 0
