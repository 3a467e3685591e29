"""Cause and remedy of every message, by the message as `error_reference` prints it.

The names in braces don't matter for finding an entry, so a renamed variable needs no change here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """What the page says about a message.

    Attributes:
        cause: when it appears.
        remedy: what to do; an instruction.
    """

    cause: str
    remedy: str


_CONFIG: Mapping[str, Entry] = {
    "RetryPolicy.backoff_max_s={value}: must be a number of at least 0": Entry(
        "The longest pause between attempts is negative, infinite or not a number.",
        "Pass the pause in seconds, 0 or more.",
    ),
    "RetryPolicy.backoff_s={value}: must be a number of at least 0": Entry(
        "The first pause between attempts is negative, infinite or not a number.",
        "Pass the pause in seconds; 0 retries at once.",
    ),
    "RetryPolicy.max_errors={value}: must be an integer of at least 0": Entry(
        "The number of retries after an error of a step is negative or not an integer.",
        "Pass an integer; 0 means no retry.",
    ),
    "RetryPolicy.max_preemptions={value}: must be an integer of at least 0": Entry(
        "The number of retries after a preemption is negative or not an integer.",
        "Pass an integer; 0 means no retry.",
    ),
    "RetryPolicy.max_retries={value}: must be an integer of at least 0": Entry(
        "The number of retries after a lost worker is negative or not an integer.",
        "Pass an integer; 0 means no retry.",
    ),
    "RetryPolicy.max_timeouts={value}: must be an integer of at least 0": Entry(
        "The number of retries after a time-out is negative or not an integer.",
        "Pass an integer; 0 means no retry.",
    ),
    "RetryPolicy.oom_memory_factor={value}: must be a number of at least 1": Entry(
        "The factor would give the next attempt less memory, or is not a number.",
        "Pass 1 to keep the memory, or more to raise it.",
    ),
    "RetryPolicy.retry_on={value}: must be a sequence of exception types or their names": Entry(
        "`retry_on` is a single value, or one of its elements is neither an exception type nor a string.",
        "Pass a tuple such as `(TimeoutError, 'requests.exceptions.ConnectionError')`.",
    ),
    "address={addresses}: all executors of a flow must use the same cluster": Entry(
        "Executors of the graph given to `ray_pipeline_flow` name different Ray addresses.",
        "Give all of them the same `address`, or make a flow for each cluster.",
    ),
    "address={value}: all executors of a chain must use the same cluster": Entry(
        "Executors that depend on one another name different Ray addresses.",
        "Give all of them the same `address`, or run each cluster's executors separately.",
    ),
    "address={value}: must be a text string that is not empty, or None": Entry(
        "`address` is an empty string or not a string.",
        "Pass a Ray address such as `'ray-head:6379'`, or None for the default.",
    ),
    "cpus_per_task={value}: must be a number of at least 0": Entry(
        "`cpus_per_task` is negative, infinite or not a number.",
        "Pass the number of CPUs that a rank group reserves on each of its nodes.",
    ),
    "depends={members}: the executors wait for one another; remove one of these edges": Entry(
        "The dependencies form a cycle; the message names its executors.",
        "Remove one of the dependencies from `depends`.",
    ),
    "depends={value}: must be a RayPipelineExecutor or a list of them": Entry(
        "`depends` holds something that is not a `RayPipelineExecutor`, such as another kind of executor.",
        "Pass the executors themselves, singly or in a list.",
    ),
    "executor={executor}: must be a RayPipelineExecutor": Entry(
        "A Prefect task or flow, or an Airflow task group, was given something else.",
        "Pass a `RayPipelineExecutor`.",
    ),
    "gpus_per_task={value}: must be a number of at least 0": Entry(
        "`gpus_per_task` is negative, infinite or not a number.",
        "Pass the number of GPUs that a rank group reserves on each of its nodes; fractions are allowed.",
    ),
    "log_first={value}: must be True or False": Entry(
        "`log_first` is not a bool.",
        "Pass True to see the log of each group's first rank on the console of its worker, else False.",
    ),
    "logging_dir={path}: names no bucket or folder; give one": Entry(
        "The URL has a protocol only, such as `s3://`.",
        "Add the bucket and the folder, such as `s3://bucket/runs/clean`.",
    ),
    "logging_dir={path}: no filesystem for it ({cause}); give a path, a URL, (url, storage_options), (path, fsspec filesystem) or a DataFolder": Entry(
        "fsspec does not know the protocol, lacks the package for it, or refuses the storage options; the text in "
        "parentheses says which.",
        "Install the package of the filesystem (`s3fs` for `s3://`), or correct the URL or the options.",
    ),
    "logging_dir={spec}: must be a path, a URL, (url, storage_options), (path, fsspec filesystem) or a DataFolder": Entry(
        "`logging_dir` is empty, or of a type that names no folder.",
        "Pass one of the forms that the message lists.",
    ),
    "max_failed_ranks={value}: must be a count of ranks, or a fraction from 0 to below 1": Entry(
        "`max_failed_ranks` is negative, or above 1 and not a whole number.",
        "Pass a number of ranks such as 3, or a fraction such as 0.05 for 5 % of them.",
    ),
    "max_ranks_per_worker={value}: must be an integer of at least 1": Entry(
        "`max_ranks_per_worker` is 0, negative or not an integer.",
        "Pass after how many ranks a worker is replaced, or None for never.",
    ),
    "mem_per_cpu_gb={value}: must be a number of at least 0": Entry(
        "`mem_per_cpu_gb` is negative, infinite or not a number.",
        "Pass the memory per CPU in GiB; 0 reserves none.",
    ),
    "name={value}: must be a text string that is not empty, or None": Entry(
        "`name` is an empty string or not a string.",
        "Pass a string, or None to take the name of the run folder.",
    ),
    "nodes_per_task={value}: must be an integer of at least 1": Entry(
        "`nodes_per_task` is 0, negative or not an integer.",
        "Pass the number of nodes of a gang; 1 means no gang.",
    ),
    "observers={value}: must be a list of observers": Entry(
        "`observers` is a single object or a string.",
        "Put the observers into a list, also a single one.",
    ),
    "on_kill={on_kill}: must be 'stop', since a run in the Airflow worker ends with its task": Entry(
        "The operator's `on_kill` has another value.",
        "Leave `on_kill` out, or pass `'stop'`.",
    ),
    "pipeline={value}: must be a list of steps or an import path 'package.module:factory'": Entry(
        "`pipeline` is a single step, a generator or something else that is not a sequence.",
        "Put the steps into a list, or name a function that returns one.",
    ),
    "pipeline={value}: must have at least one step": Entry(
        "`pipeline` is an empty sequence.",
        "Add a step.",
    ),
    "pipeline={value}: must have the form 'package.module:factory'": Entry(
        "`pipeline` is a string without a colon, or with a part that is no Python name.",
        "Write the module, a colon and the name of the function in it.",
    ),
    "pipeline[{index}]={value}: must be callable as step(data, rank, world_size), or a sequence that becomes the data": Entry(
        "An element of `pipeline` can't be called and is no sequence; a string counts as neither.",
        "Pass a function, a `PipelineStep`, a datatrove step, or a list of data.",
    ),
    "pipeline_kwargs={value}: must be a dict of the factory's arguments by name": Entry(
        "`pipeline_kwargs` is not a dict, or has a key that is not a string.",
        "Pass a dict such as `{'month': '2013-01'}`.",
    ),
    "pipeline_kwargs={value}: needs a pipeline given as an import path": Entry(
        "`pipeline_kwargs` are arguments of a factory, but `pipeline` is a list of steps.",
        "Name the factory as `'package.module:factory'`, or leave `pipeline_kwargs` out.",
    ),
    "placement_strategy={value}: must be one of ('PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD')": Entry(
        "`placement_strategy` is not one of Ray's strategies.",
        "Pass one of those that the message lists, in capital letters.",
    ),
    "randomize_start_duration={value}: must be an integer of at least 0": Entry(
        "`randomize_start_duration` is negative or not an integer.",
        "Pass the longest pause before a rank starts, in whole seconds.",
    ),
    "ray_conn_id={ray_conn_id}: must be None, since this release runs pipelines in the Airflow worker only, and later ones will take connections; to use a running cluster give its address, or set RAY_ADDRESS": Entry(
        "The operator was given an Airflow connection, which it does not support yet.",
        "Pass `address`, or set `RAY_ADDRESS` where the Airflow worker runs.",
    ),
    "ray_remote_kwargs with {ray_options}: Ray refuses these actor options: {error}": Entry(
        "`ray_remote_kwargs` has an option that Ray does not know for actors, or a value that it refuses.",
        "Correct or remove the option that Ray's own text names.",
    ),
    "ray_remote_kwargs={value}: must be a dict of Ray actor options": Entry(
        "`ray_remote_kwargs` is not a dict, or has a key that is not a string.",
        "Pass a dict such as `{'resources': {'ssd': 1}}`.",
    ),
    "ray_remote_kwargs['resources']={value}: must be a dict of amounts by name": Entry(
        "The custom resources are not a dict, or have a key that is not a string.",
        "Pass a dict such as `{'ssd': 1}`.",
    ),
    "ray_remote_kwargs['resources'][{name}]={value}: must be a number of at least 0": Entry(
        "The amount of a custom resource is negative, infinite or not a number.",
        "Pass the amount that a rank group reserves on each of its nodes.",
    ),
    "ray_remote_kwargs[{option}]={value}: given both ways, since {parameter}={value} says the same; keep one of the two": Entry(
        "A resource is given by a parameter of the executor and by an option of Ray's.",
        "Remove the option from `ray_remote_kwargs`, or the parameter.",
    ),
    "ray_remote_kwargs[{option}]={value}: must be a number of at least 0": Entry(
        "`num_cpus`, `num_gpus` or `memory` is negative, infinite or not a number.",
        "Pass a number; `memory` is in bytes.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use nodes_per_task and placement_strategy": Entry(
        "The option names a placement group, and the executor makes its own.",
        "Remove the option, and ask for gangs with `nodes_per_task` and `placement_strategy`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use nothing: a run has several workers, which can't share a name": Entry(
        "The option names the actor, and Ray allows one actor of a name.",
        "Remove `name` from `ray_remote_kwargs`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use nothing: workers end with their run": Entry(
        "The option would let workers outlive the run.",
        "Remove `lifetime` from `ray_remote_kwargs`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use retry=RetryPolicy(...)": Entry(
        "The option would let Ray restart workers or repeat calls, without the driver's knowledge.",
        "Remove the option, and set the retries with `retry=RetryPolicy(...)`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use tasks_per_job": Entry(
        "The option would let a worker run several calls at once.",
        "Remove the option, and set how many ranks run side by side with `tasks_per_job`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed with nodes_per_task above 1; use placement_strategy": Entry(
        "The workers of a gang are scheduled by its placement group, so they can't have a strategy of their own.",
        "Remove `scheduling_strategy`, and set `placement_strategy`.",
    ),
    "retry={value}: must be a RetryPolicy": Entry(
        "`retry` is a number or something else.",
        "Pass `RetryPolicy(max_retries=...)`.",
    ),
    "run_timeout={value}: must be a number above 0": Entry(
        "`run_timeout` is 0, negative or not a number.",
        "Pass the time limit of the whole run in seconds, or None for no limit.",
    ),
    "runtime_env is a {type}: must be a dict, see Ray's runtime_env": Entry(
        "The operator's `runtime_env` is not a dict.",
        "Pass a dict such as `{'pip': ['pyarrow']}`.",
    ),
    "runtime_env is given both by itself and in ray_remote_kwargs: keep one of the two": Entry(
        "The operator has two runtime environments.",
        "Remove one of them.",
    ),
    "skip_completed={value}: must be True or False": Entry(
        "`skip_completed` is not a bool.",
        "Pass True to run the ranks without a marker, or False to run all.",
    ),
    "startup_timeout={value}: must be a number above 0": Entry(
        "`startup_timeout` is 0, negative or not a number.",
        "Pass how long the run waits for its first worker, in seconds; `float('inf')` means for ever.",
    ),
    "tasks={value}: must be an integer of at least 1": Entry(
        "`tasks` is 0, negative or not an integer.",
        "Pass the number of ranks.",
    ),
    "tasks_per_job={value}: must be an integer of at least 1": Entry(
        "`tasks_per_job` is 0, negative or not an integer.",
        "Pass the number of ranks that a worker runs side by side.",
    ),
    "time={value}: must be a number above 0": Entry(
        "`time` is 0, negative or not a number, such as a string `'01:00:00'`.",
        "Pass the time limit of a rank group in seconds, or None for no limit.",
    ),
    "workers={value}: must be at least 1, or -1 for as many as the cluster grants": Entry(
        "`workers` is 0, below -1 or not an integer.",
        "Pass how many rank groups may run at the same time, or -1.",
    ),
    "{name}={value}: must be an integer, or a template that becomes one": Entry(
        "`tasks` or `workers` of the operator is a string that is no integer after rendering.",
        "Correct the value, or what the template takes it from.",
    ),
}

_PIPELINE: Mapping[str, Entry] = {
    "pipeline: a worker can't read it: {type}: {error}; make the module importable on the cluster, for example with ray_remote_kwargs={'runtime_env': {'working_dir': ...}}": Entry(
        "Unpickling the pipeline failed on a worker, usually because a module is missing there; the end of the message "
        "names the node.",
        "Install the module on the nodes, or send it with a runtime environment.",
    ),
    "pipeline={path}: importing module {module_name} raised {type}: {error}; it must be importable where the run happens": Entry(
        "The module of the import path is missing where `run()` was called, or raises when it is imported.",
        "Install the module, or correct the path or the error that the message shows.",
    ),
    "pipeline={path}: module {module_name} has no {attribute}": Entry(
        "The module has no function of that name.",
        "Correct the part after the colon.",
    ),
    "pipeline={path}: {attribute} is a {type}, not a function": Entry(
        "What the import path names can't be called, for example because it is the list of steps itself.",
        "Name a function that returns the list of steps.",
    ),
    "pipeline={pipeline}: calling the factory with {pipeline_kwargs} raised {type}: {error}": Entry(
        "The factory does not take these arguments, or raised an exception; the traceback has its cause.",
        "Correct `pipeline_kwargs` or the factory.",
    ),
    "pipeline={pipeline}: the factory returned no list of steps: {error}": Entry(
        "The factory returned something else, an empty list, or an element that is no step.",
        "Return a list of steps from the factory.",
    ),
    "pipeline[{index}]: {step} can't be pickled, so it can't be sent to a worker: {type}: {cause}; open files, locks and clients inside the step's first call instead": Entry(
        "The step holds an object that belongs to this process, such as an open file, a lock or a database client.",
        "Create the object inside the step when it is called.",
    ),
}

_CLUSTER: Mapping[str, Entry] = {
    "address={address}: this process is connected to the Ray cluster at {connected} already; leave the address out to use that one, or call ray.shutdown() first": Entry(
        "`ray.init()` was called before, for another cluster.",
        "Leave `address` out, or call `ray.shutdown()` before `run()`.",
    ),
    "workers fail to start, {failed_starts} in a row; the last one: {error_type}: {message}": Entry(
        "More workers than `max_retries` died one after another before they were ready, for the reason at the end.",
        "Correct that reason (often the runtime environment or a full disk), then start the run again.",
    ),
    "no Ray cluster at address={where}: {type}: {error}; check that it runs and can be reached from here, or leave the address out for a local one": Entry(
        "Nothing answers at `address` or `RAY_ADDRESS`, or a local cluster could not be started.",
        "Check the address with `ray status --address=...`, or leave it out and unset `RAY_ADDRESS`.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster has no node": Entry(
        "The cluster has no node that is alive.",
        "Start nodes, or check the autoscaler.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; at most {most} fits on one node: ask for less, or add larger nodes": Entry(
        "A rank group asks for more than any node has, or for more nodes than there are.",
        "Lower `cpus_per_task`, `mem_per_cpu_gb`, `gpus_per_task`, `nodes_per_task` or the custom resources, or add nodes.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; {fitting} group(s) would fit if nothing else ran there: wait, or end what does": Entry(
        "The cluster is large enough, but other jobs hold its resources.",
        "Wait until they end, stop them, or raise `startup_timeout`.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster has no node": Entry(
        "Ray can't schedule the worker, for the reason at the beginning, and the cluster has no node that is alive.",
        "Start nodes, or check the autoscaler.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; at most {most} fits on one node: ask for less, or add larger nodes": Entry(
        "Ray can't schedule the worker, since a rank group asks for more than any node has, or for a node or label that "
        "does not exist.",
        "Lower what a group asks for, correct `ray_remote_kwargs`, or add nodes.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; {fitting} group(s) would fit if nothing else ran there: wait, or end what does": Entry(
        "Ray can't schedule the worker although the resources exist, usually because of a scheduling strategy or a "
        "label in `ray_remote_kwargs`.",
        "Correct the strategy or the label that the beginning of the message names.",
    ),
}

_RUN_FOLDER: Mapping[str, Entry] = {
    "Several runs want the folder {url} at once. Try again, or use another folder.": Entry(
        "Several drivers tried to take the same lease at the same moment, ten times in a row.",
        "Start one run only, or give each its own `logging_dir`.",
    ),
    "The run that this worker belongs to no longer has the lease on {url}, so the rank is not marked as complete. The next run of this folder runs it again.": Entry(
        "Another run took the folder over while the rank was running, usually because the driver of this one died or "
        "was suspended.",
        "Leave it to the other run, which runs the rank again.",
    ),
    "This run has lost its lease on {url}: another run took it over after {stale_s} s without a heartbeat, or run.lock was removed. This run stops; what it has finished stays.": Entry(
        "The machine was suspended, or could not write to the storage for a minute; or somebody deleted `run.lock`.",
        "Wait for the other run, then start this one again if ranks are missing; never delete `run.lock` of a live run.",
    ),
    "This run has not taken the lease on {url}.": Entry(
        "The lease was checked before it was taken or after it was given back: a defect of this package.",
        "Report it, with the traceback.",
    ),
    "{url} is in use by somebody whose run.lock is damaged (last heartbeat {age_s} s ago). Wait until that run ends, stop it, or use another folder. If it died, its lease is free {stale_s} s after its last heartbeat, and at once on the host it ran on.": Entry(
        "`run.lock` can't be read, so it counts as held until a minute after it was written.",
        "Wait a minute and start the run again; if a run is still active there, stop it first.",
    ),
    "{url} is in use by {host}, pid {pid}, since {since} (last heartbeat {age_s} s ago). Wait until that run ends, stop it, or use another folder. If it died, its lease is free {stale_s} s after its last heartbeat, and at once on the host it ran on.": Entry(
        "Another run holds the lease on the run folder: at the named host, in the named process.",
        "Wait for that run, stop it, or use another `logging_dir`.",
    ),
    "run folder {url} has ranks completed by another pipeline: it was cut into {ranks} ranks, now into {world_size}. Use another logging_dir for this one, or skip_completed=False to run all ranks again here. Nothing was deleted.": Entry(
        "`tasks` was changed since the earlier run of this folder, so its markers belong to other shards.",
        "Restore the earlier `tasks`, use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "run folder {url} has ranks completed by another pipeline: its steps were {before}, now {now}. Use another logging_dir for this one, or skip_completed=False to run all ranks again here. Nothing was deleted.": Entry(
        "Steps were added, removed, renamed or reordered since the earlier run of this folder.",
        "Restore the earlier steps, use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "Can't tell whether this run still has the lease on {url}: the storage does not answer. Start the run again when it does: it goes on where it stopped.": Entry(
        "No heartbeat could be written for a minute, so another run may have taken the folder over.",
        "Start the run again once the storage answers.",
    ),
    "Can't {action} {where}: a file stands where a folder is needed, or the other way round ({cause}). Move it away, or choose another folder.": Entry(
        "`logging_dir`, or a part of it, is a file; or a folder has the name of one of the run's files.",
        "Move it away, or choose another `logging_dir`.",
    ),
    "Can't {action} {where}: access is denied ({cause}). Allow this user or these credentials to list, read, write and delete, or choose another folder.": Entry(
        "The user or the credentials lack a permission on the folder or bucket.",
        "Grant permission to list, read, write and delete below the run folder, on every machine of the run.",
    ),
    "Can't {action} {where}: the credentials are missing or not valid ({cause}). Give valid ones, in the environment or as (url, storage_options), on every machine of the run.": Entry(
        "The object store got no credentials, or expired or wrong ones.",
        "Set the credentials in the environment of driver and nodes, or pass `(url, storage_options)`.",
    ),
    "Can't {action} {where}: the filesystem is read-only ({cause}). Choose another folder.": Entry(
        "The folder is on a filesystem that is mounted read-only.",
        "Choose another `logging_dir`, or mount the filesystem writable.",
    ),
    "Can't {action} {where}: the folder or bucket is missing ({cause}). Create it, or correct its name.": Entry(
        "The storage does not create the folder by itself, or it was deleted while the run was active.",
        "Create it, or correct `logging_dir`.",
    ),
    "Can't {action} {where}: the storage did not answer properly, however often it was asked ({cause}). Start the run again when it does: it goes on where it stopped.": Entry(
        "Server errors, throttling, dropped connections or time-outs lasted longer than a minute of retries.",
        "Start the run again once the storage answers.",
    ),
    "Can't {action} {where}: the storage is full ({cause}). Free some space, then start the run again: it goes on where it stopped.": Entry(
        "The disk is full, or a quota is used up.",
        "Free some space or raise the quota, then start the run again.",
    ),
    "Can't {action} {where}: the storage refused ({cause}). Check the address and the storage options.": Entry(
        "The storage failed in a way that is none of the other cases; the text in parentheses has its own words.",
        "Check the URL, the storage options and the text in parentheses.",
    ),
    "Can't {action} {where}: there is no such bucket ({cause}). Create it, or correct its name.": Entry(
        "The bucket in the URL does not exist.",
        "Create the bucket, or correct `logging_dir`.",
    ),
    "run folder {url} is in the memory of this process, where workers can't see it: use a path or URL that they can reach": Entry(
        "`logging_dir` is a `memory://` URL, which workers in other processes can't read.",
        "Use a shared path or an object store; for tests, use `run_in_process`.",
    ),
}

_RUN: Mapping[str, Entry] = {
    "run {name}: {failed} of {world_size} ranks failed ({max_failed_ranks} allowed): {shown}; and {more} more. {completed} completed; start it again on {logging_dir} to run only those that failed": Entry(
        "More ranks failed than `max_failed_ranks` allows; the message shows the first five.",
        "Read the logs that the message names, correct the cause, then start the run again with the same `logging_dir`.",
    ),
    "executor {name} was not run, because {parent_name}, which it depends on, failed: {root}": Entry(
        "An executor in `depends`, directly or further up the chain, failed; the end of the message is its error.",
        "Correct the error of the executor that is named, then start the chain again; what is complete is skipped.",
    ),
    "run {name} was stopped before it began": Entry(
        "Airflow killed the task before its run had started.",
        "Clear the task in Airflow to run it.",
    ),
    "run {name} was stopped with {completed}/{world_size} ranks completed; start it again on {logging_dir} to run the others": Entry(
        "Ctrl-C, SIGTERM or `executor.stop()` stopped the run.",
        "Start the run again with the same `logging_dir` to run the other ranks.",
    ),
}

_STATS: Mapping[str, Entry] = {
    "stats are a list of steps, not a {type}": Entry(
        "A stats file, or what `PipelineStats.from_list` was given, holds other JSON than a list.",
        "Remove the file if it is not one of this package's or datatrove's; its rank runs again.",
    ),
    "stats hold numbers that are too large to be added: {error}": Entry(
        "A step counted a number that exceeds what a float can hold.",
        "Correct the step that counts it.",
    ),
    "stats of other steps can't be merged: step {index} is {new} and was {old} ({names} after {before})": Entry(
        "Two ranks ran different steps, for example because the pipeline's factory depends on the machine.",
        "Make every rank run the same steps, then run the ranks again with `skip_completed=False`.",
    ),
    "stats of other steps can't be merged: {names} steps and {before} before ({names} after {before})": Entry(
        "Two ranks ran different numbers of steps, for example because the pipeline's factory depends on the machine.",
        "Make every rank run the same steps, then run the ranks again with `skip_completed=False`.",
    ),
    "step {index} of the stats has no {key} that is a {kind}": Entry(
        "A step in a stats file lacks its name or its metrics.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "step {index} of the stats is {plain} and should be a dict": Entry(
        "A stats file holds something else in the place of a step.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "step {index} of the stats, {name}, {place}: {error}": Entry(
        "A metric of a step in a stats file is damaged; the end of the message says how.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "the stats of {name} are not plain numbers: {error}": Entry(
        "A step of another library put something other than numbers into its stats.",
        "Count numbers only in that step.",
    ),
    "{source} is damaged, so its rank has to run again: it is not JSON: {error}": Entry(
        "The stats file was cut off or overwritten, for example when the machine crashed.",
        "Start the run again unless this run has run the rank already, which replaces the file.",
    ),
    "{source} is damaged, so its rank has to run again: {error}": Entry(
        "The stats file is JSON but does not hold stats; the end of the message says what is wrong.",
        "Start the run again unless this run has run the rank already, which replaces the file.",
    ),
    "the unit {unit} is no text": Entry(
        "The unit of a metric in a stats file is not a string. It comes as part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "{value} is not a number": Entry(
        "A step counted something that is not a number, or a stats file holds such a value.",
        "Pass a number to the step's stats.",
    ),
    "n={n} is no number of values": Entry(
        "The count of a metric in a stats file is negative or infinite. It comes as part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "the total is missing": Entry(
        "A metric in a stats file has no `total`. It comes as part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "{value} is no time in seconds": Entry(
        "A step added an infinite value or NaN to its time.",
        "Pass a finite number of seconds.",
    ),
}

_OTHER: Mapping[str, Entry] = {
    "module {module} has no attribute {name}": Entry(
        "The package has no public name like this.",
        "Correct the name; README.md and docs/architecture.md list those that exist.",
    ),
    "the worker's process was told to end (SIGTERM)": Entry(
        "Ray, or the machine on its way down, ended the worker in the middle of a rank. It is in the rank's log only.",
        "Do nothing: the rank counts as lost and is tried again.",
    ),
    "run {name}: {failed} of {world_size} ranks failed, {completed} completed; the next try runs only the missing ones. Run folder: {logging_dir} {failure} and {more} more: all are in result.json of the run folder": Entry(
        "More ranks failed than `max_failed_ranks` allows; the message shows the first twenty, a line for each. It is "
        "an `AirflowException`, so Airflow retries the task if it has retries left.",
        "Read the logs that the message names, correct the cause, then clear the task.",
    ),
    "Its Ray pipeline was stopped.": Entry(
        "The flow run was cancelled, and its ranks have ended.",
        "Start the flow again to run the other ranks.",
    ),
}

_RANKS: Mapping[str, Entry] = {
    "another node of the gang failed and this one did not end within 30.0 s": Entry(
        "One node of a gang failed its rank, and another one went on waiting, usually for the first.",
        "Look into the log of the node that failed first; the gang is tried again.",
    ),
    "in step {step}: (it has no message)": Entry(
        "A step raised an exception without a message.",
        "Read the traceback in the rank's log.",
    ),
    "in step {step}: (its message can't be shown)": Entry(
        "A step raised an exception whose `__str__` raises as well.",
        "Read the traceback in the rank's log.",
    ),
    "in step {step}: {error}": Entry(
        "A step raised an exception.",
        "Read the traceback in the rank's log, correct the step or its input, then start the run again.",
    ),
    "its placement group was removed before all of its workers had started": Entry(
        "Somebody removed the gang's placement group while its workers were starting.",
        "Do nothing: another one is asked for; if it happens again, find out what removes placement groups.",
    ),
    "ran over its time limit of {limit_s} s": Entry(
        "The rank group ran longer than `time`.",
        "Raise `time`, cut the work into more ranks, or allow retries with `RetryPolicy(max_timeouts=...)`.",
    ),
    "the rank's process died: exit code {code}": Entry(
        "With `tasks_per_job` above 1, the process of one rank ended by itself, as by `os._exit`.",
        "Find out in the rank's log what ended it; the rank is tried again.",
    ),
    "the rank's process died: signal {code} ({name}); a kill by the kernel for memory looks like this too": Entry(
        "With `tasks_per_job` above 1, the process of one rank was killed or crashed. Signal 9 often means that the "
        "machine ran out of memory.",
        "Raise `mem_per_cpu_gb` or lower `tasks_per_job` for signal 9; else look for a crash in native code.",
    ),
    "the run ended while this rank was running": Entry(
        "The run was stopped, or ended by an error, before this rank had ended.",
        "Start the run again to run the rank.",
    ),
    "the run's time limit of {run_timeout} s was over before this rank had completed": Entry(
        "The whole run took longer than `run_timeout`.",
        "Start the run again to run the rank; raise `run_timeout` if that happens regularly.",
    ),
    "the worker was killed by the driver": Entry(
        "The rank was about to be stored when its worker was killed, since another rank on it ran over `time`.",
        "Do nothing: the rank is tried again.",
    ),
}

_WARNINGS: Mapping[str, Entry] = {
    "stats of rank {rank} are not in stats.json: {error}": Entry(
        "The rank's stats don't fit those of the ranks before; the end of the message says why.",
        "Run all ranks with the same steps if you need complete stats; the rank's output is good.",
    ),
    "stats of ranks {first} to {last} are not in stats.json: {error}": Entry(
        "The stats of these ranks don't fit those of the ranks before; the end of the message says why.",
        "Run all ranks with the same steps if you need complete stats; the ranks' outputs are good.",
    ),
    "step {index} ({step}): parameters changed since the earlier run of this folder: {names}; ranks completed then keep their old outputs": Entry(
        "A step has the same name as in the earlier run, but other parameters.",
        "Use `skip_completed=False` or another `logging_dir` if all ranks should have the new parameters.",
    ),
    "stats/{rank}.json could not be read: {content}": Entry(
        "The stats file of a completed rank is missing or can't be read, so `stats.json` lacks that rank.",
        "Remove the rank's marker if you need its stats, so that the next run runs it again.",
    ),
}

_LOGS: Mapping[str, Entry] = {
    "The lease on {url} is lost: another run has taken it over, or run.lock was removed": Entry(
        "The machine was suspended, or could not write to the storage for a minute; or somebody deleted `run.lock`.",
        "Wait for the other run; this one stops by itself, with `RunFolderLockedError`.",
    ),
    "The result of the failed run could not be pushed; it is in {logging_dir}": Entry(
        "Airflow did not take the result of a failed run as XCom; the traceback says why.",
        "Read `result.json` in the run folder instead.",
    ),
    "executor {name} failed, so what depends on it is not run: {error}": Entry(
        "An executor of a chain failed; those that don't depend on it go on.",
        "Correct the error that the message names, then start the chain again.",
    ),
    "observer {observer} raised in {event}; this is logged once, the run goes on": Entry(
        "A method of one of your `observers` raised; the traceback follows.",
        "Correct the observer.",
    ),
    "rank {rank} failed": Entry(
        "A step raised, or the rank's files could not be stored; the traceback follows. It is in the rank's log.",
        "Read the traceback, correct the cause, then start the run again.",
    ),
    "time limit of {limit_s} s is over": Entry(
        "The rank group ran longer than `time`; its worker is killed 2 s later. It is in the rank's log.",
        "Raise `time`, or cut the work into more ranks.",
    ),
    "{name} is not tried again, since that would not help: {type}: {error}": Entry(
        "The Prefect task has retries left, but the same error would come again.",
        "Correct the error that the message names, then start the flow again.",
    ),
    "A line of attempts/history.jsonl is no record and is left out: {line}": Entry(
        "A line was cut off when a driver was killed, or was edited.",
        "Do nothing: attempts are counted without it.",
    ),
    "No heartbeat for the lease on {url}: {error}": Entry(
        "The storage did not take a heartbeat in time; the next one is due 10 s later.",
        "Check the storage if it happens again: after 60 s another run may take the folder over.",
    ),
    "Nothing was run: every rank was completed by an earlier run of {logging_dir}. To run them again give another logging_dir, or skip_completed=False.": Entry(
        "The Airflow task found a run folder in which every rank has a marker.",
        "Pass another `logging_dir`, such as one with `{{ ds }}` in it, if the ranks should run again.",
    ),
    "The lease on {url} is not given back: the storage does not answer": Entry(
        "The storage did not answer within 4 s at the end of the run.",
        "Wait 60 s before the next run from another host; on the same host, start it at once.",
    ),
    "The lease on {url} is not given back: {error}": Entry(
        "The storage refused to remove `run.lock` at the end of the run; the end of the message says why.",
        "Wait 60 s before the next run from another host; on the same host, start it at once.",
    ),
    "Took over the stale lease on {url} from somebody whose run.lock is damaged": Entry(
        "An earlier run left a `run.lock` that can't be read, and has sent no heartbeat for 60 s.",
        "Check that no other run uses the folder.",
    ),
    "Took over the stale lease on {url} from {host}, pid {pid}, since {since}": Entry(
        "An earlier run of this folder was killed before it could give its lease back.",
        "Check that the earlier run is no longer active; this one runs the ranks that are missing.",
    ),
    "could not upload {path}": Entry(
        "The log of a running rank could not be stored on remote storage; the next try is due 30 s later.",
        "Do nothing, unless it happens again: then check the storage.",
    ),
    "flow run {flow_run_id} stays in state Cancelling: {error}": Entry(
        "The run was stopped, but Prefect's server did not take the state *Cancelled*.",
        "Set the state of the flow run in Prefect's UI.",
    ),
    "this worker is not used again, since it can't be made ready for that": Entry(
        "A worker could not be cleaned up for the next executor of the chain; the traceback says why.",
        "Do nothing: a new worker is started instead.",
    ),
    "could not write the result of run {name}": Entry(
        "The run ended with another error, which follows, and the run folder could not be written either.",
        "Correct the error that follows. Start the run again: completed ranks are skipped.",
    ),
    "worker process {pid} still runs after it was killed": Entry(
        "A worker did not end within 10 s after SIGKILL, usually because it waits for a disk or a device.",
        "Check the process on the driver's machine, and end it by hand if it stays.",
    ),
    "{name}: further failures are only counted; the run folder names them all": Entry(
        "A hundred attempts have failed, and Prefect's log shows no more.",
        "Read `attempts/history.jsonl` in the run folder for the others.",
    ),
    "{name}: {failure}; it is tried again": Entry(
        "An attempt of a rank failed, in a Prefect run; `{failure}` has the rank, the kind of failure, "
        "the number of attempts, the error and the log. Without the last words, the rank is not tried again.",
        "Read the rank's log, which the message names, if the failure comes again.",
    ),
    "{url}/executor.json is damaged: nothing to compare this run with": Entry(
        "The description of the earlier run can't be read, so nothing tells whether its pipeline was the same.",
        "Make sure that the pipeline is the one that ran here before, or use another `logging_dir`.",
    ),
    "{what} could not be created: {error}": Entry(
        "Prefect's server refused an artifact; the run is not affected.",
        "Correct what the end of the message says, if you need the artifact.",
    ),
    "{what} is not waited for any longer: the server has not answered for {patience_s} s": Entry(
        "Prefect's server is slow or can't be reached; the artifact may still come.",
        "Check the server if artifacts are missing.",
    ),
}

ENTRIES: Mapping[str, Entry] = {
    **_CONFIG,
    **_PIPELINE,
    **_CLUSTER,
    **_RUN_FOLDER,
    **_RUN,
    **_STATS,
    **_OTHER,
    **_RANKS,
    **_WARNINGS,
    **_LOGS,
}
"""What the page says, by message."""

NEVER_SHOWN: Mapping[str, str] = {
    "a chunk of the stats cache has no ranks": "The driver catches it, and does not use the cache.",
    "no worker could start within startup_timeout={startup_timeout} s: runs in this process": "A slot always starts.",
    "{message}; runs in this process": "Nothing is unschedulable in this process.",
}
"""Messages that no user can get, each with the reason."""
