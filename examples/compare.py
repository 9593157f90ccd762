"""Look at the market before buying, ask the best nodes for binding quotes, and keep the evidence of what was bought."""

import asyncio
import json

import relaymesh

PROMPT = "What is an offer?"


async def main() -> None:
    """Compare, buy once, and print what both sides signed."""
    async with relaymesh.Client() as client:
        for offer in await client.offers():
            print(f"{offer.model}: {offer.output_msat} msat for {offer.per} {offer.unit}s of output, {offer.free} free")
        print((await client.explain(PROMPT)).sentence())
        for quote in await client.quote(PROMPT, policy="cheapest"):
            print(f"{quote.node}: at most {quote.max_msat} msat. {quote.settlement}")
        try:
            answer = await client.chat(PROMPT, policy="cheapest")
        except relaymesh.NotServed as error:
            print(f"{error} ({error.cost_msat} msat paid)")
            return
        print(answer.text)
        receipts = await client.receipts()
        print(json.dumps(next(receipt.evidence for receipt in receipts if receipt.job_id == answer.job_id)))


if __name__ == "__main__":
    asyncio.run(main())
