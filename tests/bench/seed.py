"""Puts Secret blocks into a Prefect database in one transaction, as one request each would take minutes.

Called with PREFECT_HOME set to the server's home; arguments: how many blocks, and how many bytes each value has. Names
are k00000, k00001, …; the value of each begins with its name.
"""

import asyncio
import sys

import sqlalchemy as sa
from prefect.server.database import provide_database_interface


async def main(count: int, size: int) -> None:
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        type_id = (await session.execute(sa.select(db.BlockType.id).where(db.BlockType.slug == "secret"))).scalar_one()
        schemas = sa.select(db.BlockSchema.id).where(db.BlockSchema.block_type_id == type_id)
        schema_id = (await session.execute(schemas)).scalars().first()
        for number in range(count):
            name = f"k{number:05}"
            block = db.BlockDocument(
                name=name, block_type_id=type_id, block_schema_id=schema_id, block_type_name="Secret", is_anonymous=False
            )
            await block.encrypt_data(session=session, data={"value": f"{name}-".ljust(size, "x")})
            session.add(block)
    engine = await db.engine()
    await engine.dispose()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
