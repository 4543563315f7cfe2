"""Adapters that rows name, applied in the passes that all rows share.

Each kind (control_…, ip_adapter_…, t2i_adapter_…) has its settings (*_rows.py, *_fields.py), what a plan checks of its
files (*_files.py), and what it does in the lanes (*_nets.py). LoRAs: lora_rows.py, lora_files.py and lora_names.py for
a plan; row_loras.py, lora_bank.py, lora_slots.py and lora_layers.py in the lanes; lora_merge.py.

net_kinds.py    the kinds of networks         net_fields.py   their settings together
row_nets.py     all networks of a row         loaded_nets.py  those in memory
net_loading.py  loads them                    net_folders.py  finds their folders
"""
