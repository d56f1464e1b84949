"""python -m fastrestore.bench SUITE OPTIONS: runs one case; OPTIONS and the last line of what it prints are JSON."""

import json
import sys

from fastrestore.bench.process import Skipped, settle


def main() -> None:
    suite, text = sys.argv[1:]
    options = json.loads(text)
    try:
        # The allocator that gives back what is freed is the one whose memory can be measured.
        settled = {"allocator": None} if suite in ("memory", "quality") else {}
        settle(options.get("threads", 1), isa=options.get("isa", ""), **settled)
        from fastrestore.bench.suites import SUITES  # only now: the libraries start threads

        result = SUITES[suite].run(**options)
    except Skipped as reason:
        result = {"skipped": str(reason)}
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
