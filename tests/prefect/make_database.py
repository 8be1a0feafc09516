"""Makes a migrated, empty Prefect 3 database with all block types registered, as a server does on its first start.

Called by tests/tools.sh with PREFECT_HOME set to an empty folder and the file to make as argument. Test servers start
from a copy of that file, which saves each of them the migrations.
"""

import asyncio
import os
import sqlite3
import sys

from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration


async def main() -> None:
    database = provide_database_interface()
    await database.create_db()
    async with database.session_context() as session:
        await run_block_auto_registration(session=session)
    engine = await database.engine()
    await engine.dispose()


asyncio.run(main())
source = sqlite3.connect(os.path.join(os.environ["PREFECT_HOME"], "prefect.db"))
count = source.execute("select count(*) from block_type where slug = 'secret'").fetchone()[0]
assert count == 1, "the Secret block type was not registered"
# VACUUM INTO makes one self-contained file, without the write-ahead log beside it.
source.execute("VACUUM INTO ?", (sys.argv[1],))
