"""The verbs of the command line: what each accepts, and its docstring, from which its help is made.

A verb imports what it needs when it is called, so that the help is shown at once.
"""

from mednextv2.commands.bundle import bundle
from mednextv2.commands.check import check
from mednextv2.commands.compare import compare
from mednextv2.commands.curves import curves
from mednextv2.commands.doctor import doctor
from mednextv2.commands.ensemble import ensemble
from mednextv2.commands.export import export
from mednextv2.commands.fetch import fetch
from mednextv2.commands.pack import pack
from mednextv2.commands.phantom import phantom
from mednextv2.commands.picture import picture
from mednextv2.commands.plan import plan
from mednextv2.commands.predict import predict
from mednextv2.commands.promote import promote
from mednextv2.commands.report import report
from mednextv2.commands.run import run
from mednextv2.commands.score import score

VERBS = {
    f.__name__: f
    for f in (
        run,
        predict,
        check,
        plan,
        bundle,
        ensemble,
        promote,
        compare,
        score,
        export,
        phantom,
        picture,
        report,
        curves,
        pack,
        fetch,
        doctor,
    )
}
