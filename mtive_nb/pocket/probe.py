"""What the frozen vision tower knows of real photos: linear probes on photos of public sets (notebook 00).

A probe is a logistic regression on the tower's mean patch. It learns from the labels of the training photos and is
scored on validation photos that neither the base nor its teacher's targets have seen. Pairs ask whether a photo and a
catalogue photo show one product; the score of a pair is the cosine of its features.

Shapes: N photos, W width of the tower.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mtive_nb.pocket.distill import TEACHER_PX, centre_view, for_student, open_photo, teach

STRENGTH = 0.01  # C of the logistic regression
