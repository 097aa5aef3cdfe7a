"""Any model, or any backbone with any decoder: BACKBONE+HEAD.

python launch/main.py --config=configs/pair.py:MODEL@DATA

e.g. configs/pair.py:mscan_t+segformer@camvid. DATA: shapes | camvid | camvid_full | folder
"""

from attnseg.recipe import pair


def get_config(choice="mscan_t+segformer@shapes"):
    return pair.get_config(choice)
