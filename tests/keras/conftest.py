"""The cases of the backends run in processes of their own, which name the file: Keras has one backend a process."""

collect_ignore = ["backend_cases.py", "tflite_cases.py"]
