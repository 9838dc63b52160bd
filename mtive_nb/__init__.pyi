# The public names, loaded when they are first used (lazy_loader reads this file; so do editors and type checkers).
from .data.catalogue import load_catalogue
from .data.photos import PhotoError
from .data.records import RecordError, load_records, make_record, write_records
from .evaluate.intervals import Interval
from .evaluate.judge.rule import RuleJudge
from .evaluate.predict import answers_of_systems, generate_answers, generate_mixed_answers
from .evaluate.scores import paired_gains, score_table, wide_table
from .model.experts import AdapterPlan, train_adapters
from .model.lineage import AdapterSpec, LineageError, NotFiniteError
from .model.load import Vlm, load_vlm
from .model.stack import LoraStack, load_base, load_stack, open_stack
from .model.train import Training, train_adapter
from .run.folder import start_run
from .serve.answer import Answer, Experts, Profile, open_profile
from .serve.engine import Engine, Overloaded, Request
from .serve.export import export_expert, export_flat, export_trunk
from .serve.pool import ExpertPool
from .serve.vllm import VllmClient, VllmServer
