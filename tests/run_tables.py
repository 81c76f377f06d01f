"""Made-up runs to list, of both kinds."""

import yaml

LANGUAGE = {"script": "lstm/train.py", "seed": 1, "lr": 30.0, "wdrop": 0.0, "data": "/a/penn", "data_checksum": "c1"}
IMAGES = {"script": "cnn/hypertrain.py", "seed": 1, "train_lr": 0.01, "data": "builtin", "data_checksum": "c2"}
EPOCHS = ((60.0, 5.9, 365.0), (120.0, 5.2, 181.0), (180.5, 5.3, 200.0))  # time, val_loss, val_ppl or val_acc


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def write_run(folder, settings=LANGUAGE, status="finished", epochs=EPOCHS, val=None, test=None, result=None, **others):
    """A run's folder; val and test, or else the text in `result`, are in result.csv."""
    measure = "acc" if settings.get("script", "").startswith("cnn") else "ppl"
    write(folder, "args.yaml", yaml.safe_dump({**settings, **others}))
    write(folder, "status", f"{status}\n")
    rows = [f"{index},{time},{loss},{score}\n" for index, (time, loss, score) in enumerate(epochs)]
    write(folder, "epoch.csv", f"epoch,time,val_loss,val_{measure}\n" + "".join(rows))
    if val is not None:
        result = f"val_loss,val_{measure},test_loss,test_{measure}\n5.0,{val},5.0,{test}\n"
    if result is not None:
        write(folder, "result.csv", result)
    return folder
