"""Buy an answer, read it as it comes, and see what it cost.

A wallet is needed: `relaymesh wallet connect` remembers one. docs/how-to/buy.md says how to try it with play money.
"""

import asyncio

import relaymesh


async def main() -> None:
    """Ask for one answer."""
    async with relaymesh.Client() as client:
        chat = client.chat("What is an offer?", max_msat=50_000)
        async for piece in chat:
            print(piece, end="", flush=True)
        print()
        assert chat.answer is not None  # or the loop would have raised NotServed
        print(f"{chat.answer.cost_msat} msat to {chat.answer.node} for {chat.answer.model}")


if __name__ == "__main__":
    asyncio.run(main())
