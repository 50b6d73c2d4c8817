"""recommend_approach: should this be a fine-tune at all, and if so, how exactly?

`query` is what is asked, `evidence` reads its words, `verdict` adds up the rules, `method` chooses how to tune, and
`plan` writes the advice. The knowledge lies in tables/*.yaml; the code only applies it. Nothing here imports torch.
"""

from skill.advise.advice import Advice
from skill.advise.plan import recommend_approach
from skill.advise.query import ApproachQuery

__all__ = ["Advice", "ApproachQuery", "recommend_approach"]
