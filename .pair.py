import asyncio,sys,tempfile
from pathlib import Path
from bench.targets import staged
from bench.cells import Run, cells, SATURATED, STREAMS_200, STREAMS_20, PACED
async def main():
    cellnames=sys.argv[1].split(",")
    names={"sat":SATURATED,"s200":STREAMS_200,"s20":STREAMS_20,"paced":PACED}
    with tempfile.TemporaryDirectory() as d:
        async with staged(Path(d)) as stage:
            run=Run(stage)
            tg={t.name:t for t in stage.targets}
            res={}
            for n in range(int(sys.argv[2])):
                for c in cellnames:
                    cell=cells(1.0)[names[c]]
                    for t in stage.targets:
                        if t.name in ("naive","smg","nginx") or t is stage.ours:
                            s=await run.sample(n,names[c],cell,t)
                            v=s.cpu_us_per_chunk if c.startswith("s2") else s.cpu_us_per_request
                            res.setdefault((c,t.name),[]).append(v)
            for (c,t),v in res.items():
                base=min(res[(c,"naive")])
                print(c,t,"min %.1f ratio %.2f"%(min(v),min(v)/base)," ".join("%.0f"%x for x in v))
asyncio.run(main())
