"""Settings and helpers that several tests of the survey use."""

from utils.atlas.runs import Hands
from utils.dialect import survey

QUICK = survey.SurveySettings(prefixes=("nothing", "bos", "user"), kinds=("contrast",), n_verbs=2)
HERE = Hands(workers=0)
TEMPLATE = "<|endoftext|>{% for turn in messages %}({{ turn['role'] }}) {{ '{}' }}\n{{ turn['content'] }}\n{% endfor %}"
