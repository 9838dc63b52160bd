"""Labels read by eye from the public sets' photos, on contact sheets of every class; `sources.py` uses them.

The sets lack these labels: packaging, brands, which photos show the same cookie, the printed dates.
"""

from __future__ import annotations

# GroceryStoreDataset: every product of these coarse classes comes in a carton, yoghurt and sour cream included.
BOXED = frozenset("Juice Milk Oatghurt Oat-Milk Sour-Cream Sour-Milk Soyghurt Soy-Milk Yoghurt".split())
# All fruit and vegetables lie loose in crates. "loose" is not in PACKAGINGS: it is a seventh class of task PT.
LOOSE = "loose"

BRANDS = ("Alpro", "Arla", "Bravo", "Garant", "God Morgon", "Oatly", "Tropicana", "Valio", "Yoggi")

# cookies: consecutive photos show one cookie from several sides. Some whole cookies were photographed again once broken
# (normal 20-23 and anomaly 29-32; normal 24-27 and anomaly 18-19). Photos of apparently one cookie stay in one split.
# (kind, first, last, split), 31 photos train, 12 val, 20 test.
COOKIE_RUNS = (
    ("normal", 1, 2, "val"),
    ("normal", 3, 7, "train"),
    ("normal", 8, 11, "val"),
    ("normal", 12, 19, "train"),
    ("normal", 20, 30, "test"),
    ("normal", 31, 31, "train"),
    ("anomaly", 1, 4, "train"),
    ("anomaly", 5, 8, "val"),
    ("anomaly", 9, 17, "train"),
    ("anomaly", 18, 22, "test"),
    ("anomaly", 23, 24, "val"),
    ("anomaly", 25, 28, "train"),
    ("anomaly", 29, 32, "test"),
)

# expiry-photos, in the columns of labels.csv. Used where there is no labels.csv.
EXPIRY_LABELS = (
    ("file", "expiry_text", "expiry_date", "production_date"),
    ("img_01.jpg", "03/04/23", "", ""),
    ("img_02.jpg", "FEB/21/21", "2021-02-21", ""),
    ("img_03.jpg", "11 APR 2021", "2021-04-11", ""),
    ("img_04.jpg", "NOV2021", "2021-11", ""),
    ("img_05.jpg", "2021.08.03", "2021-08-03", ""),
    ("img_06.jpg", "28 10 21", "2021-10-28", ""),
    ("img_07.jpg", "2022.01.31", "2022-01-31", "2021-02-01"),
    ("img_08.jpg", "26/11/2021", "2021-11-26", "2020-11-26"),
)
