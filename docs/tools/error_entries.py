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
    "InputFiles.content_hash={value}: must be True or False": Entry(
        "`content_hash` of `InputFiles` is not a bool.",
        "Pass True to take the content of files as their version, else False.",
    ),
    "InputFiles.glob={value}: must be a pattern of paths": Entry(
        "The pattern of `InputFiles` is empty or no string.",
        "Pass a pattern of paths below the folder, such as `**/*.csv`.",
    ),
    "InputFiles.glob={glob}: is no pattern of paths below the folder ({error})": Entry(
        "The pattern of `InputFiles` leads out of the folder, or has `**` beside other characters.",
        "Pass a pattern such as `**/*.csv`, in which `**` stands alone between slashes.",
    ),
    "InputFiles.path={value}: is no folder; correct the path, or mount the disk that it is on": Entry(
        "The local folder of `InputFiles` is missing, or is a file. It is not taken for an empty one, since all outputs would then be replaced by empty ones.",
        "Correct the path, mount the disk, or create the folder if it is empty indeed.",
    ),
    "InputFiles.rank_bytes={value}: must be a number of bytes above 0, or a string such as '256MB' or '1.5GiB'": Entry(
        "The size of a rank is 0, negative, or in a form that is not understood.",
        "Pass a number of bytes, or a number with a unit: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.",
    ),
    "InputFiles.storage_options={value}: must be a dict, or None": Entry(
        "The storage options of `InputFiles` are no dict.",
        "Pass a dict of fsspec's options for the filesystem.",
    ),
    "Refresh.on_stale={value}: must be a function of a rank and its former inputs, or None": Entry(
        "What should remove the outputs of a stale rank can't be called.",
        "Pass a function that takes the rank and a tuple of the inputs that it had.",
    ),
    "Refresh.rerun_on={value}: must be a list of some of ('inputs', 'parents', 'steps'), or None": Entry(
        "`rerun_on` is a string, or names a change that there is not.",
        "Pass a list, such as `['inputs', 'parents']`.",
    ),
    "refresh={value}: must be a Refresh, such as Refresh(rerun_on=['inputs'])": Entry(
        "`refresh` is something else.",
        "Pass `refresh=Refresh(rerun_on=[...])`.",
    ),
    "inputs: {source} lists {item}; list() must return InputItem(key, weight, version), with a string as key, a number of at least 0 as weight, and a string or None as version": Entry(
        "The source of the inputs returned something else, or an item with a wrong field.",
        "Correct `list()` of the source.",
    ),
    "inputs: {source} lists {key} twice; the keys of items must differ": Entry(
        "Two items of the source have the same key, so they can't be told apart in the next run.",
        "Give each item a key of its own.",
    ),
    "inputs: {value} has no repr that is the same in every process, so it can't be found again; use strings, numbers or tuples of them, or an object with list() -> Iterable[InputItem]": Entry(
        "A value in the list of inputs shows its address in memory.",
        "Use plain values, or write a source that gives each one a key.",
    ),
    "inputs={inputs}: must be InputFiles('s3://bucket/folder', glob='**/*.csv'), a list of values, or an object with list() -> Iterable[InputItem]": Entry(
        "`inputs` is none of these; a path alone is not enough.",
        "Pass `InputFiles(path, glob=...)` for files.",
    ),
    "inputs={source}: lists nothing any more, and the last run had inputs; unless that is meant, correct the source and run again": Entry(
        "All files are gone, or the disk that they are on is: ranks that had some run once with none.",
        "Restore the files if that is not meant, and run again: all are new then.",
    ),
    "inputs={source}: has no input, so there is nothing to run; correct the path and the pattern, or start the run when there are inputs": Entry(
        "The source lists nothing, and no earlier run of this folder had inputs.",
        "Correct the path and the pattern of `InputFiles`, or start the run when there is something.",
    ),
    "inputs={source}: lists {own} of the run folder {url}; choose a logging_dir outside of the source, or a pattern that leaves it out": Entry(
        "The run folder is in the folder of the inputs, so the run would read what it writes, and find news each time.",
        "Choose a `logging_dir` elsewhere, or a `glob` that matches the inputs alone.",
    ),
    "inputs={values}: must not have the same value twice": Entry(
        "A value is in the list of inputs twice, so it can't be told which is which in the next run.",
        "Remove one of the two, or make tuples of the values and a number.",
    ),
    "pipeline[0]={step}: must be a reader of files, since inputs is given; this one has a source of its own": Entry(
        "The first step is a reader of datatrove's that can't be given files.",
        "Remove `inputs`, or use a reader of files or a step of your own.",
    ),
    "pipeline[0]={step}: must be a step that takes the inputs, since inputs is given; it is data itself": Entry(
        "The first element of the pipeline is data, and `inputs` is given too.",
        "Pass the data as `inputs`, and remove it from the pipeline.",
    ),
    "pipeline[0]={reader}: has a paths_file, and inputs is given too; remove one of them": Entry(
        "A reader of datatrove's would read the files of two lists.",
        "Remove `paths_file` from the reader, or `inputs` from the executor.",
    ),
    "pipeline[0]={reader}: has glob_pattern={glob_pattern}, but InputFiles has glob={glob}; give the pattern to InputFiles alone": Entry(
        "A reader of datatrove's would leave out files that are dealt to its ranks.",
        "Give the pattern to `InputFiles`, and remove `glob_pattern` from the reader.",
    ),
    "pipeline[0]={reader}: reads below {root}, but inputs are in {folder}; give both the same folder": Entry(
        "A reader of datatrove's reads from another folder than `InputFiles` lists.",
        "Give both the same folder.",
    ),
    "pipeline[0]={reader}: reads files, so inputs must be InputFiles(...), not {source}": Entry(
        "The first step is a reader of datatrove's, and the inputs are no files.",
        "Pass `InputFiles`, or use a step of your own.",
    ),
    "RAY_PIPELINE_CONNECT_TIMEOUT_S={value}: must be a number of seconds above 0": Entry(
        "The environment variable that limits the wait for a cluster is not a positive number.",
        "Set it to a number of seconds, or unset it.",
    ),
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
    "RetryPolicy.before_retry={value}: must be a function of rank and attempt, or None": Entry(
        "What should clear up before a rank is repeated can't be called.",
        "Pass a function that takes the rank and the number of the attempt.",
    ),
    "{parameter}={function}: can't be pickled, so it can't be sent to a worker: {type}: {error}; create files, locks and clients when the function is called instead": Entry(
        "The function, or something that it has captured, holds a file, a lock, a connection or the like.",
        "Create it when the function is called, or import it there.",
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
    "at_end={value}: must be True or False": Entry(
        "`at_end` of a `WebhookNotifier` or `MailNotifier` is not a bool.",
        "Pass True to hear of the end of a run, else False.",
    ),
    "at_end={value}: must be True unless at_first_failure is": Entry(
        "A `WebhookNotifier` or `MailNotifier` would never send anything.",
        "Leave one of `at_end` and `at_first_failure` at True.",
    ),
    "at_first_failure={value}: must be True or False": Entry(
        "`at_first_failure` of a `WebhookNotifier` or `MailNotifier` is not a bool.",
        "Pass True to hear of the first rank that fails for good, else False.",
    ),
    "timeout_s={value}: must be a number above 0, in seconds": Entry(
        "`timeout_s` of a `WebhookNotifier` or `MailNotifier` is 0, negative or not a number.",
        "Pass how long a message may take, in seconds.",
    ),
    "headers={__name__}: must be a dict of strings": Entry(
        "`headers` of a `WebhookNotifier` is not a dict, or one of its names and values is not a string; the message names its type alone.",
        "Pass a dict such as `{'Authorization': 'Bearer ...'}`.",
    ),
    "the url of a WebhookNotifier (not shown, since it may hold a secret): must be http:// or https://, a host and a path, in ASCII": Entry(
        "The URL of a `WebhookNotifier` is empty, of another protocol, or has characters that no URL has.",
        "Pass the URL as the service shows it.",
    ),
    "the url of a WebhookNotifier, for {hostname}: must not have a user or password; pass headers={'Authorization': ...}": Entry(
        "The URL of a `WebhookNotifier` has the form `https://user:password@host`, which is not sent.",
        "Leave them out of the URL, and pass `headers={'Authorization': ...}`.",
    ),
    "host={value}: must be a text string that is not empty, or None": Entry(
        "`host` of a `MailNotifier` is an empty string or not a string.",
        "Pass the name of a mail server, or None for this machine.",
    ),
    "port={value}: must be a port, or None": Entry(
        "`port` of a `MailNotifier` is not an integer from 1 to 65535.",
        "Pass the port of the mail server, or None for the usual one.",
    ),
    "security={value}: must be 'starttls', 'ssl' or 'none'": Entry(
        "`security` of a `MailNotifier` is something else.",
        "Pass `'starttls'`, `'ssl'`, or `'none'` for a server on this machine.",
    ),
    "recipients={value}: must be a list of mail addresses": Entry(
        "`recipients` of a `MailNotifier` is empty, or neither a string nor a list.",
        "Pass one mail address, or a list of them.",
    ),
    "{parameter}={value}: must be a mail address": Entry(
        "`sender`, or one of `recipients`, of a `MailNotifier` is not a string with an @.",
        "Pass mail addresses.",
    ),
    "username={value}: must be a text string that is not empty, or None": Entry(
        "`username` of a `MailNotifier` is an empty string or not a string.",
        "Pass the user name for the mail server, or None if it asks for none.",
    ),
    "username={value}: would be sent in clear; use another security": Entry(
        "A `MailNotifier` has a user name and `security='none'`, so the password could be read on the way.",
        "Use `security='starttls'` or `'ssl'`.",
    ),
    "the password of a MailNotifier (not shown): must be a string, given together with username": Entry(
        "A `MailNotifier` has a user name without a password, a password without a user name, or one that is not a string.",
        "Pass both or none of them.",
    ),
    "address={value}: must be a text string that is not empty, or None": Entry(
        "`address` is an empty string or not a string.",
        "Pass a Ray address such as `'ray-head:6379'`, or None for the default.",
    ),
    "cpus_per_task={value}: must be a number of at least 0": Entry(
        "`cpus_per_task` is negative, infinite or not a number.",
        "Pass the number of CPUs that a rank group reserves on each of its nodes.",
    ),
    "depends={members}: must not form a cycle; remove one of these dependencies": Entry(
        "The dependencies form a cycle; the message names its executors.",
        "Remove one of the dependencies from `depends`.",
    ),
    "depends={value}: is an executor of datatrove's, whose run can't be waited for; make all of a chain RayPipelineExecutors": Entry(
        "A chain mixes executors of both packages.",
        "Use executors of `ray_pipeline_core` everywhere in the chain.",
    ),
    "depends={value}: must be a RayPipelineExecutor, a run folder, or a list of them": Entry(
        "`depends` holds something that is neither a `RayPipelineExecutor` nor a path, a URL or another form of a folder.",
        "Pass executors, or the `logging_dir` of a run.",
    ),
    "depends={url}: executor {name} would wait for the run folder of {other}, which this chain runs later; pass that "
    "executor instead of its folder, or the folder of another run": Entry(
        "The folder in `depends` is that of the executor itself, or of one that the chain runs after it.",
        "Put the executor that writes the folder into `depends`, or name the folder of another run.",
    ),
    "executor={executor}: must be a RayPipelineExecutor": Entry(
        "A Prefect task or flow, or an Airflow task group, received something else.",
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
    "logging_dir={url}: executors {other} and {name} of a chain have the same run folder, so each would skip the ranks "
    "of the other; give each executor a folder of its own": Entry(
        "Two executors of a chain have the same `logging_dir`, perhaps in two spellings.",
        "Give each executor a `logging_dir` of its own, such as `runs/clean` and `runs/count`.",
    ),
    "logging_dir={url}: is in {part}/ of the run folder {outer}, where every file counts as that of a rank; choose a "
    "folder outside of it": Entry(
        "The folder is in `completions/`, `stats/` or `logs/` of another executor of the chain, or of any run folder on the "
        "local disk.",
        "Choose a folder outside of these three.",
    ),
    "{parameter}={path}: must have no query after it, since file names are added at the end; remove the '?' and what "
    "follows": Entry(
        "The URL of the run folder has a `?` with something after it, such as `?versionId=…`.",
        "Remove the `?` and what follows. Options of the filesystem belong into `(url, storage_options)`.",
    ),
    "{parameter}={path}: must name a bucket or folder, such as 's3://bucket/folder'": Entry(
        "The URL has a protocol only, such as `s3://`, or the path is `/`.",
        "Add the bucket and the folder, such as `s3://bucket/runs/clean`.",
    ),
    "logging_dir={path}: can't create the filesystem ({cause}); install the package of this protocol, such as s3fs for s3://, or correct the URL or the storage options": Entry(
        "The package of the filesystem is not installed, fsspec does not know the protocol, or the filesystem refuses "
        "the storage options; the text in parentheses says which.",
        "Install the package of the filesystem (`s3fs` for `s3://`), or correct the URL or the options.",
    ),
    "logging_dir={spec}: must be a path, a URL, (url, storage_options), (path, fsspec filesystem) or a DataFolder": Entry(
        "`logging_dir` is empty, or of another type.",
        "Pass one of the forms that the message lists.",
    ),
    "max_failed_ranks={value}: must be a count of ranks, or a fraction of at least 0 and below 1": Entry(
        "`max_failed_ranks` is negative, or above 1 and not a whole number.",
        "Pass a number of ranks such as 3, or a fraction such as 0.05 for 5 % of them.",
    ),
    "max_ranks_per_worker={value}: must be an integer of at least 1": Entry(
        "`max_ranks_per_worker` is 0, negative or not an integer.",
        "Pass after how many ranks a worker is replaced, or None for never.",
    ),
    "mem_per_cpu_gb={value}: must be a number of at least 0, in GiB": Entry(
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
        "Put the observers into a list, even if there is only one.",
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
        "`pipeline` is a string without a colon, or a part of it is not a valid Python name.",
        "Write the module, a colon and the name of the function in it.",
    ),
    "pipeline[{index}]={value}: must be a step, not a list of steps, which would be data and never run; put its steps "
    "into pipeline": Entry(
        "An element of `pipeline` is a list that holds steps. A list is data for the next step, and nothing calls what is "
        "in it. Only the first of several elements may be a list of functions.",
        "Put its steps into `pipeline` itself: `[reader, *others]` instead of `[reader, others]`.",
    ),
    "pipeline[{index}]={value}: must be an instance, not a class, which a call would only create": Entry(
        "A step is a class, or a `functools.partial` of one. Calling it would create an object and drop it.",
        "Create the step: `Saver()` instead of `Saver`.",
    ),
    "pipeline[{index}]={value}: must not be a coroutine function, which nothing would await; call asyncio.run() in a "
    "plain function": Entry(
        "A step, its `__call__` or its `run` is an `async def`. Calling it would do nothing.",
        "Write a plain function, and call `asyncio.run(...)` in it.",
    ),
    "pipeline[{index}]={value}: must not be an asynchronous generator, which nothing would read; yield from a plain "
    "generator": Entry(
        "A step, its `__call__` or its `run` is an `async def` with `yield`. No step reads such a generator.",
        "Write a plain generator, and run what is asynchronous with `asyncio.run(...)`.",
    ),
    "pipeline[{index}]: {step} returned a {type} that nothing has run, so the step has done nothing; call "
    "asyncio.run() in a plain function": Entry(
        "A step returned a coroutine or an asynchronous generator, and no later step has run it. The rank fails.",
        "Run it in the step with `asyncio.run(...)`, and return its result.",
    ),
    "pipeline[{index}]: {step} returned {unread} objects, which nothing reads, so they have done nothing; write "
    "'yield from' instead of 'yield'": Entry(
        "The items of the last step are generators, for example because it has `yield write(batch)` where `write` is a "
        "generator itself, or `map` objects. Nothing reads them, so nothing is written. The rank fails.",
        "Write `yield from write(batch)`.",
    ),
    "pipeline[{index}]: {step} returned {unfinished} objects, whose results nothing fetches; let the step wait for "
    "them, with ray.get(), asyncio.run() or .result(), and return the results": Entry(
        "The last step returned Ray object references, futures of threads or processes, or other awaitable objects. "
        "Whether their work was done, or failed, is unknown. The rank fails.",
        "Wait for the work in the step: return `ray.get(references)` instead of `references`, and "
        "`[future.result() for future in futures]` instead of `futures`.",
    ),
    "pipeline[{index}]={value}: must be callable as step(data, rank, world_size), or a sequence that becomes the data": Entry(
        "An element of `pipeline` is neither callable nor a sequence of data; strings are not accepted as data.",
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
    "parameters of datatrove's other executors are not known here; {advice}": Entry(
        "A script for datatrove's Slurm or local executor passes parameters that mean nothing on Ray.",
        "Remove them, and use what the message names for each.",
    ),
    "randomize_start_duration={value}: must be a number of at least 0, in seconds": Entry(
        "`randomize_start_duration` is negative, infinite or not a number.",
        "Pass the longest pause before a rank starts, in seconds.",
    ),
    "ray_remote_kwargs with {ray_options}: Ray refuses these actor options; correct or remove the one that it names: {error}": Entry(
        "`ray_remote_kwargs` has an option that Ray does not know for actors, or a value that it refuses.",
        "Correct or remove the option that Ray's own text names.",
    ),
    "ray_remote_kwargs[{option}]: needs Ray {since} or newer, and Ray {installed} is installed; upgrade Ray on the driver and on all nodes, or remove the option": Entry(
        "The installed release of Ray is older than this option for actors.",
        "Install the release of Ray that the message names, or remove the option.",
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
    "ray_remote_kwargs[{option}]={value}: given both ways, here and as {parameter}={value}; remove one of them": Entry(
        "A resource is given by a parameter of the executor and by one of Ray's options.",
        "Remove the option from `ray_remote_kwargs`, or the parameter.",
    ),
    "ray_remote_kwargs[{option}]={value}: must be a number of at least 0": Entry(
        "`num_cpus`, `num_gpus` or `memory` is negative, infinite or not a number.",
        "Pass a number; `memory` is in bytes.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use nodes_per_task and placement_strategy": Entry(
        "The option names a placement group, and the executor makes its own.",
        "Remove the option, and request gangs with `nodes_per_task` and `placement_strategy`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use the default, None, because the workers of a run can't share a name": Entry(
        "The option names the actor, and Ray allows only one actor with a name.",
        "Remove `name` from `ray_remote_kwargs`.",
    ),
    "ray_remote_kwargs[{option}]={value}: not allowed here; use the default, None, because workers must end with their run": Entry(
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
    "retry={value}: must be a RetryPolicy, such as RetryPolicy(max_retries=3)": Entry(
        "`retry` is a number or something else.",
        "Pass `RetryPolicy(max_retries=...)`.",
    ),
    "run_timeout={value}: must be a number above 0, in seconds": Entry(
        "`run_timeout` is 0, negative or not a number.",
        "Pass the time limit of the whole run in seconds, or None for no limit.",
    ),
    "stall_timeout={value}: must be a number above 0, in seconds": Entry(
        "`stall_timeout` is 0, negative or not a number.",
        "Pass after how many seconds without a sign of work a rank is ended, or None for never.",
    ),
    "runtime_env is a {type}: must be a dict of the fields of Ray's runtime_env": Entry(
        "`runtime_env` is not a dict.",
        "Pass a dict such as `{'pip': ['pyarrow']}`.",
    ),
    "runtime_env with {runtime_env}: can't be sent to the cluster: {error}; correct what it names": Entry(
        "A local folder or file in `working_dir` or `py_modules` is missing, or of a kind that Ray does not take.",
        "Correct the path; it is that of the machine where `run()` is called.",
    ),
    "runtime_env[{name}]={path}: must exist where run() is called, since it is uploaded from there": Entry(
        "A local folder or file in `working_dir` or `py_modules` is missing.",
        "Correct the path; a relative one begins at the current directory of the process that calls `run()`.",
    ),
    "runtime_env is given both by itself and in ray_remote_kwargs; remove one of them": Entry(
        "There are two runtime environments, `runtime_env` and `ray_remote_kwargs['runtime_env']`.",
        "Remove one of them.",
    ),
    "run_on_dependency_fail={value}: must be True or False": Entry(
        "`run_on_dependency_fail` is not a bool.",
        "Pass True to run the executor although one that it depends on failed, else False.",
    ),
    "skip_completed={value}: must be True or False": Entry(
        "`skip_completed` is not a bool.",
        "Pass True to run the ranks without a marker, or False to run all.",
    ),
    "startup_timeout={value}: must be a number above 0, in seconds": Entry(
        "`startup_timeout` is 0, negative or not a number.",
        "Pass how long the run waits for its first worker, in seconds; `float('inf')` means without a limit.",
    ),
    "tasks={value}: must be an integer of at least 1": Entry(
        "`tasks` is 0, negative or not an integer.",
        "Pass the number of ranks.",
    ),
    "tasks_per_job={value}: must be an integer of at least 1": Entry(
        "`tasks_per_job` is 0, negative or not an integer.",
        "Pass the number of ranks that a worker runs side by side.",
    ),
    "time={value}: must be a number above 0, in seconds, or a string such as '24:00:00' or '1-12:00:00' (a day and 12 "
    "hours)": Entry(
        "`time` is 0, negative, or a string that Slurm would not take either.",
        "Pass the time limit of a rank group in seconds, as `'24:00:00'` or in another form of Slurm's, or None.",
    ),
    "workers={value}: must be at least 1, or -1 for as many as fit on the cluster": Entry(
        "`workers` is 0, below -1 or not an integer.",
        "Pass how many rank groups may run at the same time, or -1.",
    ),
    "{name}={value}: must be {allowed}, or a template that becomes one": Entry(
        "An argument of the Airflow operator is a string that is no number, or neither True nor False, as the parameter asks.",
        "Pass a value of the right type, or a template that renders to one.",
    ),
    "retry={type}(...): must be ray_pipeline_core.RetryPolicy, for the ranks of a run; pass Airflow's own, for the tries of the task, as retry_policy": Entry(
        "Airflow has a class of the same name, which says when a task is tried again.",
        "Pass `RetryPolicy` of `ray_pipeline_core` as `retry`, and that of Airflow as `retry_policy`.",
    ),
    "rerun={value}: must be 'auto', 'missing' or 'all'": Entry(
        "`rerun` of the Airflow operator, or the mode of a `Rerun`, is something else.",
        "Use one of the three; a template must become one of them.",
    ),
    "Rerun.attempt={value}: must be an integer": Entry(
        "The number of the attempt is not an integer.",
        "Pass the number of the try, from 1.",
    ),
    "Rerun.{name}={value}: must be a text": Entry(
        "The epoch, task or token of a request is not a string.",
        "Pass a string.",
    ),
}

_AIRFLOW: Mapping[str, Entry] = {
    "deferrable={value}: must be True or False": Entry(
        "The operator's `deferrable` is neither, or a template that becomes neither.",
        "Pass True, False, or nothing for what Airflow is configured to do.",
    ),
    "max_driver_restarts={value}: must be an integer of at least 0": Entry(
        "`max_driver_restarts` of the operator is negative or no integer.",
        "Pass how often a lost driver is started again within a try.",
    ),
    "on_kill={value}: must be 'stop' or 'leave'": Entry(
        "The operator's `on_kill` has another value.",
        "Pass 'stop' to end the job with its task, or 'leave' to let it run.",
    ),
    "poll_interval={value}: must be a number of seconds above 0": Entry(
        "`poll_interval` of the operator is 0, negative or no number.",
        "Pass the seconds between two looks at the job.",
    ),
    "Airflow does not give the connection to the cluster: {why}": Entry(
        "The triggerer or the worker can't read the connection, because Airflow's API is away or the connection is gone.",
        "Check that the connection of `ray_conn_id` exists, and that Airflow's API server answers.",
    ),
    "Ray has 1000 jobs of this task instance already; delete old jobs in the cluster, or use another task": Entry(
        "A task instance has been run again so often that all of its numbers are used.",
        "Remove old jobs from the cluster, with `ray job delete`.",
    ),
    "Job {submission_id} can't be waited for: {reason}; clear the task to go on with it": Entry(
        "The trigger of a deferred task has failed, or its cluster was away for longer than `grace_s`.",
        "Clear the task when the cause is gone: it goes on with the job, or does what is missing.",
    ),
    "The task of {task_id} was killed; clear it to run it again": Entry(
        "Airflow or a person has ended the task while it waited for its job.",
        "Clear the task to run what is missing.",
    ),
    "@task.ray_pipeline: {function} is a generator or a coroutine function; it must be a plain function that returns the list of steps": Entry(
        "The decorated function has `yield` or `async` in it.",
        "Return the list of steps from a plain function.",
    ),
    "@task.ray_pipeline: {function} returned {type}; it must return a list of steps, or a string 'package.module:factory'": Entry(
        "The decorated function has returned something else, often nothing because a `return` is missing.",
        "Return a list of steps, or the import path of a function that returns them.",
    ),
    "Airflow has no such connection; add it with the connection type ray, or correct ray_conn_id": Entry(
        "`ray_conn_id` names a connection that Airflow's database, environment and secrets backends don't have.",
        "Add the connection as docs/airflow.md describes, or correct the id.",
    ),
    "connection {ray_conn_id}: {error}": Entry(
        "A field of the Airflow connection is wrong; the rest of the message is one of the others here.",
        "Correct the field that is named, and use the button *Test* or run the task again.",
    ),
    "headers in extra must have a string for each header": Entry(
        "A header of the Airflow connection has a number, a list or an object as its value.",
        'Write each value as a string, such as `{"headers": {"X-Scope": "data"}}`.',
    ),
    "host has port {in_host}, and the field port {port}; leave one of them empty": Entry(
        "The Airflow connection names two ports.",
        "Remove the port from the host, or empty the field port.",
    ),
    "host is empty; give the URL of Ray's dashboard, such as https://ray.example:8265": Entry(
        "The Airflow connection has no host.",
        "Give the URL that a browser opens Ray's dashboard with.",
    ),
    "verify in extra must be true, false, or the path of a CA bundle": Entry(
        "`verify` of the Airflow connection is a number, a list or an object.",
        "Write `true`, or the path of the certificates of your own authority.",
    ),
    "{field} must be a JSON object": Entry(
        "`extra` of the Airflow connection, or `headers` in it, is no JSON object.",
        'Write it in braces, such as `{"verify": "/etc/ssl/own-ca.pem"}`.',
    ),
}

_JOBS: Mapping[str, Entry] = {
    "{shown_url} does not accept the token ({status}: {text}); give the cluster's token with the connection, and what a proxy before it asks for with its headers": Entry(
        "The token is missing or wrong, or a proxy before the dashboard asks for something else.",
        "Pass the cluster's token as `token`, and what the proxy wants as `headers`.",
    ),
    "the certificate of {shown_url} is not trusted: {text}; pass verify='/path/to/ca.pem' with the certificate of the authority that has signed it, or verify=False to trust anything": Entry(
        "The certificate of the dashboard is signed by nobody that this machine trusts, or is for another host.",
        "Pass `verify` the path of the authority's certificate, and the host's name as the certificate has it.",
    ),
    "the log of the job can't be read from {shown_url} ({status}: {text}); see the logs of the cluster's head": Entry(
        "Nothing lets a web socket through to the dashboard, and it could not answer with the whole log.",
        "Read the log in Ray's dashboard, or on the head in `/tmp/ray/session_latest/logs`.",
    ),
    "{shown_url} redirects to {location}, which is not followed, since the token would go there as well; pass that URL if it is the dashboard's, or give what the login asks for with the headers": Entry(
        "The dashboard has moved, or there is a page before it to log in.",
        "Pass the new URL, or what the login asks for as `headers`.",
    ),
    "no Ray dashboard answers at {shown_url}: {type}: {text}; check the URL, that the head of the cluster is running, and that this machine can reach it": Entry(
        "Nobody listens there, the name is unknown, or nothing was answered in time.",
        "Check the URL, the head of the cluster and the network; then call again.",
    ),
    "the Ray dashboard at {shown_url} is not available ({status}: {text}); check that the head of the cluster is running": Entry(
        "A proxy answers, but the dashboard behind it does not.",
        "Wait for the head of the cluster to be up again.",
    ),
    "the log from {shown} broke off ({why}); call logs() again": Entry(
        "The connection over which the log came is gone.",
        "Read on with `logs()`, from the offset of before.",
    ),
    "{shown_url} is not the dashboard of a Ray cluster: it answers with status {status} and {text}; pass the URL of the dashboard, whose port is 8265 unless it was started with another": Entry(
        "Another service answers there, a page to log in, or a Ray without a dashboard.",
        "Pass the URL of the dashboard, and start the head with `ray[default]` installed.",
    ),
    "cluster={value}: must be a ClusterConnection": Entry(
        "Something else was given as the cluster of a job.",
        "Pass `ClusterConnection(url, token=...)`.",
    ),
    "driver_cpus={value}: must be a number of at least 0": Entry(
        "The CPUs of the driver are negative or not a number.",
        "Pass 0 or more.",
    ),
    "driver_memory_gb={value}: must be a number of at least 0": Entry(
        "The memory of the driver is negative or not a number.",
        "Pass a number of GiB, 0 or more.",
    ),
    "grace_s={value}: must be a number of at least 0": Entry(
        "The time that a head may be silent is negative or not a number.",
        "Pass a number of seconds.",
    ),
    "headers: must be a dict of strings by name, each in one line of ASCII characters": Entry(
        "A header of the connection can't be sent as it is.",
        "Pass a dict such as `{'X-Api-Key': '...'}`.",
    ),
    "lease_wait_s={value}: must be a number of at least 0": Entry(
        "The time that a driver waits for a run folder is negative or not a number.",
        "Pass a number of seconds.",
    ),
    "metadata: must be a dict of strings by name, or None": Entry(
        "Ray takes strings alone as metadata of a job.",
        "Pass a dict of strings.",
    ),
    "offset={value}: must be an integer of at least 0": Entry(
        "The offset in a log is not one that `logs()` has returned.",
        "Pass `JobLog.offset` of the call before, or 0.",
    ),
    "poll_s={value}: must be a number above 0, in seconds": Entry(
        "The time between two requests is 0, negative or not a number.",
        "Pass a number of seconds.",
    ),
    "runtime_env[{name}]={place}: can't be uploaded ({type}: {error}); name a folder, a zip file or, in py_modules, a wheel that is there where the job is submitted": Entry(
        "A local path in `runtime_env` is missing or can't be read.",
        "Correct the path, which counts where `submit()` is called.",
    ),
    "submission_id={submission_id}: must be letters, digits, '.', '_' and '-', a letter or digit first": Entry(
        "The id of a job has other characters, or more than 201.",
        "Choose another id, or leave it out.",
    ),
    "the token must be a string of ASCII characters without spaces, or None": Entry(
        "The token has spaces, line ends or other characters that no token has.",
        "Pass the token alone.",
    ),
    "url={partition}: must have no user, query or fragment; give what is secret with the token or the headers": Entry(
        "The URL of the dashboard has more than scheme, host, port and path.",
        "Pass these alone, and secrets as `token` or `headers`.",
    ),
    "url={text}: must be the URL of a Ray dashboard, such as 'https://ray.example:8265'": Entry(
        "The URL is neither http nor https, has no host, or a port that there is not.",
        "Pass the URL of the dashboard; `ray://` is something else.",
    ),
    "url={type} of length 0 or no string: must be the URL of a Ray dashboard, such as 'https://ray.example:8265'": Entry(
        "The URL of the dashboard is empty or no string.",
        "Pass the URL of the dashboard.",
    ),
    "verify={value}: must be True, False or the path of certificates": Entry(
        "`verify` is something else.",
        "Pass True, False or a path.",
    ),
    "verify={verify}: can't be read as certificates ({type}: {error}); pass the path of a file in PEM format, True or False": Entry(
        "The file of `verify` is missing, or has no certificates in it.",
        "Correct the path, or convert the file to PEM.",
    ),
    "job {submission_id} has {state}: {message}": Entry(
        "The job has ended before its run began, as when its runtime environment can't be made; or it succeeded, and nobody can read its result.",
        "Do what the message says; the job's page in Ray's dashboard has its log.",
    ),
    "job {submission_id} is not over after {timeout_s} s ({state}: {message}); it goes on, so wait again or stop it": Entry(
        "`wait(timeout_s=...)` was over before the job.",
        "Wait again, or call `stop()`.",
    ),
    "job {submission_id} is not over {timeout_s} s after it was asked to stop ({state}: {message}); see {dashboard_link}": Entry(
        "The job does not end, waits for resources that the cluster lacks, or the cluster gives no answer.",
        "Look at the job in Ray's dashboard, or call `stop()` again.",
    ),
    "the Ray dashboard at {shown_url} can't do what it was asked for ({status}: {answer}); see the logs of the cluster's head": Entry(
        "Ray has refused a request about a job, or failed with it.",
        "Read Ray's own words at the end of the message, and the logs of the head.",
    ),
    "the cluster at {shown_url} refuses the id {submission_id}, and does not know a job with it; submit the job again with another id": Entry(
        "A job with this id was deleted a moment ago.",
        "Use another id.",
    ),
    "the cluster does not take the {len(package.content) / 1000000.0} MB of files that the job needs ({status}: {text}); make them fewer with runtime_env={'excludes': [...]}, or put them where the nodes can read them and pass the URI": Entry(
        "The local folders of `runtime_env` are larger than Ray, or a proxy before it, takes.",
        "Leave files out with `excludes` or a `.gitignore`, or pass a URI such as `s3://...zip`.",
    ),
    "job {submission_id} has ended ({status}), and its id can't be used again; submit the job with another id, or without one": Entry(
        "Ray takes an id once and for all.",
        "Use another id. `status()` and `wait()` of the old one still tell how it ended.",
    ),
    "job {submission_id} is at work on something else (its fingerprint is {metadata FINGERPRINT}, and that of this executor {metadata}); submit the job with another id, or without one": Entry(
        "A job with this id runs another executor.",
        "Use another id, or stop the job that is there.",
    ),
    "job {submission_id} is lost: {message}": Entry(
        "The driver was killed, its node has died, or the head of the cluster was started anew.",
        "Use another id to submit the job again: completed ranks are skipped.",
    ),
    "the cluster at {shown_url} does not know job {submission_id}; it was never submitted there, was deleted, or the head was started anew since": Entry(
        "The cluster has no record of the job.",
        "Check id and URL. If the head was started anew, submit the job again.",
    ),
    "the cluster lacks a module of the pipeline, and runs Python {own}.{own}, which can't read the code of Python {their}.{their} that came with the job; use the same version on both sides, or send the module with runtime_env={'working_dir': '.'}": Entry(
        "The pipeline's module is not on the cluster, and its code is of another version of Python.",
        "Use the same version of Python, or send the module as a file.",
    ),
    "the job can't be read on the cluster: {type}: {error}; install its modules there, or send them with the job: your own with runtime_env={'working_dir': '.'}, packages with runtime_env={'pip': [...]}": Entry(
        "The cluster lacks a module that the executor needs, or has another version of it.",
        "Install the module on the nodes, or send it with `runtime_env`.",
    ),
    "{part} can't be pickled, so the job can't be sent to the cluster: {type}: {cause}; create files, locks and clients when a step is called, or pass the pipeline as 'package.module:factory'": Entry(
        "The executor holds something that can't leave this process.",
        "Create it when the step is called, or name a factory.",
    ),
    "run {name} failed: {error}": Entry(
        "The run folder has the result of a job whose log is gone.",
        "Do what the error in it says.",
    ),
    "the driver of the job raised {type}: {message}; see the job's log": Entry(
        "The run has raised an error that is none of ray-pipeline's: one of the user's own code, or a bug.",
        "Look for the traceback in the job's log.",
    ),
    "job {submission_id} was stopped; submit it again with another id to run what is missing": Entry(
        "Somebody has stopped the job before its run could tell a result.",
        "Use another id to submit it again.",
    ),
}

_PIPELINE: Mapping[str, Entry] = {
    "{parameter}: a worker can't read it: {type}: {error}; install its modules on every node, or send them with the run: your own with runtime_env={'working_dir': '.'}, packages with runtime_env={'pip': [...]}": Entry(
        "Unpickling the pipeline, or `before_retry`, failed on a worker, usually because a package is missing there, or a "
        "module that another one imports; the end of the message names the node.",
        "Install the package on every node, or send it with a runtime environment as the message says.",
    ),
    "pipeline={path}: importing module {module_name} raised {type}: {error}; correct the path, or install the module where the driver runs": Entry(
        "The module of the import path is missing where the driver runs, which is the calling process or, for jobs, a node of the"
        " cluster; or it raises when it is imported.",
        "Install the module, or correct the path or the error that the message shows.",
    ),
    "pipeline={path}: module {module_name} has no {attribute}; correct the name after the colon": Entry(
        "The module has no function of that name.",
        "Correct the part after the colon.",
    ),
    "pipeline={path}: {attribute} is a {type}, not a function; name a function that returns the list of steps": Entry(
        "What the import path names can't be called, for example because it is the list of steps itself.",
        "Name a function that returns the list of steps.",
    ),
    "pipeline={pipeline}: calling the factory with {pipeline_kwargs} raised {type}: {error}; correct pipeline_kwargs or the factory": Entry(
        "The factory does not take these arguments, or raised an exception; the traceback has its cause.",
        "Correct `pipeline_kwargs` or the factory.",
    ),
    "pipeline={pipeline}: the factory returned no list of steps: {error}": Entry(
        "The factory returned something else, an empty list, or an element that is not a step.",
        "Return a list of steps from the factory.",
    ),
    "pipeline[{index}]: {step} can't be pickled, so it can't be sent to a worker: {type}: {cause} (in {part}); create files, locks and clients when the step is called instead": Entry(
        "The step holds an object that belongs to this process, such as an open file, a lock or a database client. The "
        "message has the path of that object in brackets.",
        "Create the object inside the step when it is called.",
    ),
}

_CLUSTER: Mapping[str, Entry] = {
    "Ray is not installed for {executable}, where the driver of this run works. Install ray[default] there, or run the driver on a cluster, as a job: with `ray_conn_id` in Airflow, or `RayPipelineJob`": Entry(
        "The environment has no Ray. Only where the driver runs on a cluster, as a job, none is needed.",
        "Install it, or give the Airflow task a connection to a cluster.",
    ),
    "nothing answers there, and the wait of {limit_s} s is over": Entry(
        "Part of the message of `ClusterUnreachableError`.",
        "Do what that message says; `RAY_PIPELINE_CONNECT_TIMEOUT_S` changes the limit.",
    ),
    "the connection to the Ray cluster at {address} was closed while the run used it, by ray.shutdown() elsewhere in this process; call that after the run, and start the run again": Entry(
        "Code beside the run has called `ray.shutdown()`.",
        "Move that call behind the run, then start the run again: completed ranks are skipped.",
    ),
    "the head of the Ray cluster at {address} has not answered for 15.0 s; check whether its machine and its process gcs_server run, and start the run again once they do": Entry(
        "The head's machine or its process `gcs_server` has died, or the network to it is down.",
        "Start the cluster again, then the run: completed ranks are skipped.",
    ),
    "address={address}: this process is already connected to the Ray cluster at {connected}; leave address out to use that cluster, or call ray.shutdown() first": Entry(
        "`ray.init()` was called before, for another cluster.",
        "Leave `address` out, or call `ray.shutdown()` before `run()`.",
    ),
    "the head of the Ray cluster at {address} was started anew while the run used it, so the cluster has forgotten the run's workers; start the run again: ranks that have completed are skipped": Entry(
        "The head's machine or its process `gcs_server` has died and come back without the state of before.",
        "Start the run again. A head that keeps its state (`RAY_REDIS_ADDRESS`) may be started anew during a run.",
    ),
    "the run can't use the Ray cluster at {address}: {message}": Entry(
        "Ray refuses a call of the driver, for the reason that follows, for instance because its object store is full.",
        "Do what the end of the message says, then start the run again.",
    ),
    "workers fail to start, {failed_starts} in a row: {error_type}: {message}; start the run again once that is corrected": Entry(
        "More workers than `max_retries` died one after another before they were ready, for the reason in the middle.",
        "Correct the cause (often the runtime environment or a full disk), then start the run again.",
    ),
    "could not start a local Ray cluster: {type}: {error}; check the free memory and disk space of this machine, and the logs in /tmp/ray/session_latest/logs": Entry(
        "Ray's own processes could not start on this machine, for the reason that the message shows.",
        "Free memory or disk space, or correct what Ray's logs name; `ray start --head` shows the same error.",
    ),
    "no Ray cluster at {source}={where}: {cause}; check that the cluster is running and that this machine can reach it, or pass address='local' to start a local one": Entry(
        "Nothing answers at the `address` of the executor, or at that in the environment variable `RAY_ADDRESS`.",
        "Check the address with `ray status --address=...`, unset `RAY_ADDRESS`, or pass `address='local'`.",
    ),
    "no Ray cluster at {source}={where}: {error}; pass the port of the head, 6379 unless it was started with another one, or ray://HOST:10001 to use a Ray Client server": Entry(
        "Another server answers at the address: often the dashboard's port, 8265, was given instead of the head's.",
        "Pass the address that `ray start --head` has printed.",
    ),
    "the token is missing or incorrect": Entry(
        "Part of the message of `ClusterAuthError`.",
        "Do what that message says.",
    ),
    "what answers there is not the head of a Ray cluster: {answer}": Entry(
        "Part of the message of `ClusterError` about an address where another server answers.",
        "Do what that message says.",
    ),
    "the Ray cluster at {source}={where} does not accept this process's token ({error}); set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or in the file ~/.ray/auth_token": Entry(
        "The cluster uses Ray's token authentication, and this process has no token, or another one.",
        "Set the cluster's token where `run()` is called, then start the run again.",
    ),
    "the Ray cluster at {source}={where} runs Ray {ray} on Python {python}, and this process Ray {own_ray} on Python {own_python}; install the cluster's versions where run() is called, or the other way round": Entry(
        "Ray connects only processes with the same versions of Ray and Python, down to the patch version.",
        "Install the cluster's versions where `run()` is called, or update the cluster.",
    ),
    "runtime_env: the cluster does not take its files: {error}; make them smaller with runtime_env={'excludes': [...]}, or put them where the nodes can read them and pass the URI": Entry(
        "A local folder in `runtime_env` is larger than the cluster's store allows, or could not be written there.",
        "Leave out what the steps don't need with `excludes`, or pass an archive's URI.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; no node has the labels of ray_remote_kwargs['label_selector']={selector}; of these labels the nodes have {there}; correct the selector, or add nodes with these labels{words}{last_words}": Entry(
        "No node that is alive has the labels that `label_selector` asks for.",
        "Correct the selector, or start nodes with these labels.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; no node has the labels of ray_remote_kwargs['label_selector']={selector}; of these labels the nodes have {there}; correct the selector, or add nodes with these labels{words}": Entry(
        "Ray can't schedule the worker, since no node has the labels that `label_selector` asks for.",
        "Correct the selector, or start nodes with these labels.",
    ),
    "{reason}: asked for {nodes} node(s) with {bundle} each; no node has the labels of ray_remote_kwargs['label_selector']={selector}; of these labels the nodes have {there}; correct the selector, or add nodes with these labels{words}": Entry(
        "A rank that ran out of memory needs a larger worker, and the nodes with its labels are gone.",
        "Start nodes with these labels, then start the run again: it runs the missing ranks.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster has no node; start one, or check the autoscaler{words}{last_words}": Entry(
        "The cluster has no node that is alive.",
        "Start nodes, or check the autoscaler.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; one node has at most {most}; request less per rank group, or add more or larger nodes{words}{last_words}": Entry(
        "A rank group requests more than any node has, or more nodes than there are.",
        "Lower `cpus_per_task`, `mem_per_cpu_gb`, `gpus_per_task`, `nodes_per_task` or the custom resources, or add nodes.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; {fitting} rank group(s) would fit on an idle cluster; wait for other jobs to end, or stop them; raise startup_timeout if workers need longer to start, as with a large runtime_env; or check the scheduling options in ray_remote_kwargs{words}{last_words}": Entry(
        "The cluster is large enough, but other jobs hold its resources.",
        "Wait until they end, stop them, or raise `startup_timeout`.",
    ),
    "no worker could start within startup_timeout={startup_timeout} s: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; with placement_strategy={placement_strategy} there is room for {members} of the {nodes} members of a gang; lower nodes_per_task, add nodes that are large enough, or choose another placement_strategy{words}{last_words}": Entry(
        "The nodes are large enough for a member of a gang each, but not for all members as `placement_strategy` wants.",
        "Lower `nodes_per_task`, add nodes, or choose another `placement_strategy`.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster has no node; start one, or check the autoscaler{words}": Entry(
        "Ray can't schedule the worker, for the reason at the beginning, and the cluster has no node that is alive.",
        "Start nodes, or check the autoscaler.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; one node has at most {most}; request less per rank group, or add more or larger nodes{words}": Entry(
        "Ray can't schedule the worker, because a rank group requests more than any node has, or a node or label that "
        "does not exist.",
        "Lower what a group requests, correct `ray_remote_kwargs`, or add nodes.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; {fitting} rank group(s) would fit on an idle cluster; wait for other jobs to end, or stop them; raise startup_timeout if workers need longer to start, as with a large runtime_env; or check the scheduling options in ray_remote_kwargs{words}": Entry(
        "Ray can't schedule the worker although the resources exist, usually because of a scheduling strategy or a "
        "label in `ray_remote_kwargs`.",
        "Correct the strategy or the label that the beginning of the message names.",
    ),
    "{message}; asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; with placement_strategy={placement_strategy} there is room for {members} of the {nodes} members of a gang; lower nodes_per_task, add nodes that are large enough, or choose another placement_strategy{words}": Entry(
        "Ray can't place a gang as `placement_strategy` wants.",
        "Lower `nodes_per_task`, add nodes, or choose another `placement_strategy`.",
    ),
    "{reason}: asked for {nodes} node(s) with {bundle} each; the cluster has no node; start one, or check the autoscaler{words}": Entry(
        "A rank that ran out of memory needs a larger worker, and the cluster has no node that is alive.",
        "Start nodes that are large enough, then start the run again: it runs the missing ranks.",
    ),
    "{reason}: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; one node has at most {most}; request less per rank group, or add more or larger nodes{words}": Entry(
        "A rank that ran out of memory needs more memory than any node has. The other ranks are not affected.",
        "Raise `tasks`, so that a rank needs less, lower `oom_memory_factor`, or add larger nodes; then start the run "
        "again: it runs the missing ranks.",
    ),
    "{reason}: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; {fitting} rank group(s) would fit on an idle cluster; wait for other jobs to end, or stop them; raise startup_timeout if workers need longer to start, as with a large runtime_env; or check the scheduling options in ray_remote_kwargs{words}": Entry(
        "A rank that ran out of memory needs a larger worker, for which other jobs left no room.",
        "Wait until they end, or stop them; then start the run again: it runs the missing ranks.",
    ),
    "{reason}: asked for {nodes} node(s) with {bundle} each; the cluster's nodes have {nodes}; with placement_strategy={placement_strategy} there is room for {members} of the {nodes} members of a gang; lower nodes_per_task, add nodes that are large enough, or choose another placement_strategy{words}": Entry(
        "A rank that ran out of memory needs a larger gang than the cluster has room for.",
        "Add larger nodes, or lower `nodes_per_task`; then start the run again: it runs the missing ranks.",
    ),
}

_RUN_FOLDER: Mapping[str, Entry] = {
    "Several runs are starting in {url} at the same time. Start only one of them, or use another folder.": Entry(
        "Several drivers tried to take the same lease at the same moment, ten times in a row.",
        "Start one run only, or give each its own `logging_dir`.",
    ),
    "The lease on {url} was acquired too late, because this process was suspended or the storage did not answer, so another run may have taken it. Start the run again.": Entry(
        "More than 30 s passed between the driver's look at the lease and the end of its creation.",
        "Start the run again; if it happens often, find out why the storage is slow.",
    ),
    "This worker's run no longer has the lease on {url}, so the rank is not marked as completed. The next run in this folder runs it again.": Entry(
        "Another run took the folder over while the rank was running, usually because the driver of this one died or "
        "was suspended.",
        "Leave it to the other run, which runs the rank again.",
    ),
    "Attempt {attempt} of rank {rank} was given up, because its worker could not be reached, so it is not marked as completed in {url}. A later attempt runs the rank again.": Entry(
        "The node of the worker had lost its connection to the cluster, and the rank was tried again elsewhere. The "
        "message is in the log of the attempt that was given up.",
        "Do nothing; check the network of the node if it happens again.",
    ),
    "This run has lost its lease on {url}: another run took it over after {stale_s} s without a heartbeat, or its files were removed. Completed ranks are kept. Wait for the other run, then start this one again if ranks are missing.": Entry(
        "The machine was suspended, or could not write to the storage for a minute; or `run.lock` was deleted.",
        "Wait for the other run, then start this one again if ranks are missing; never delete `run.lock` of a live run.",
    ),
    "This run has not taken the lease on {url}. Report this as a bug in ray-pipeline.": Entry(
        "The lease was checked before it was taken or after it was released: a bug in this package.",
        "Report it, with the traceback.",
    ),
    "Run folder {url} is in use by a run whose run.lock is damaged (last heartbeat {age_s} s ago). Wait for that run, stop it, or use another folder. If it was killed, start again {stale_s} s after its last heartbeat.": Entry(
        "`run.lock` or a file in `leases/` can't be read, so the lease counts as held until a minute after the file was written.",
        "Wait a minute and start the run again; if a run is still active there, stop it first.",
    ),
    "Run folder {url} is in use by {host}, pid {pid}, since {since} (last heartbeat {age_s} s ago). Wait for that run, stop it, or use another folder. If it was killed, start again {stale_s} s after its last heartbeat.": Entry(
        "Another run holds the lease on the run folder; its driver is the process that the message names.",
        "Wait for that run, stop it, or use another `logging_dir`.",
    ),
    "Run folder {url} has ranks completed by another pipeline: it was cut into {ranks} ranks, now into {world_size}. Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. Nothing was deleted.": Entry(
        "`tasks` was changed since the earlier run of this folder, so its markers belong to other shards.",
        "Restore the earlier `tasks`, use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "Run folder {url} has ranks completed by another pipeline: it was cut into {ranks} ranks by number, now its ranks get inputs. Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. Nothing was deleted.": Entry(
        "Earlier runs of this folder had no `inputs`, so its markers belong to shards that the steps chose themselves.",
        "Use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "Run folder {url} has ranks completed by another pipeline: its ranks got inputs, now there are no inputs. Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. Nothing was deleted.": Entry(
        "Earlier runs of this folder had `inputs`.",
        "Pass `inputs` again, use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "{url}/inputs.jsonl is damaged ({error}), so it is not known which inputs the completed ranks have read. Restore the file, use another logging_dir, or skip_completed=False to deal the inputs anew and run all ranks again. Nothing was deleted.": Entry(
        "Somebody or something has changed the file that says which rank was dealt which inputs.",
        "Do one of the three things that the message names.",
    ),
    "Run folder {url} has ranks completed by another pipeline: it completed rank {highest}, now it has {tasks} ranks. Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. Nothing was deleted.": Entry(
        "`executor.json` is damaged or missing, and a marker shows that an earlier run had more ranks.",
        "Pass the `tasks` of the earlier run, or do what the message says.",
    ),
    "Run folder {url} has ranks completed by another pipeline: its steps were {before}, now {now}. Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. Nothing was deleted.": Entry(
        "Steps were added, removed, renamed or reordered since the earlier run of this folder.",
        "Restore the earlier steps, use another `logging_dir`, or pass `skip_completed=False`.",
    ),
    "Can't tell whether this run still has the lease on {url}: the storage does not answer. Start the run again once it is available; completed ranks are skipped.": Entry(
        "No heartbeat could be written for a minute, so another run may have taken the folder over.",
        "Start the run again once the storage answers.",
    ),
    "Can't {action} {where}: a file stands where a folder is needed, or a folder where a file is needed ({cause}). Move it away, or choose another folder.": Entry(
        "`logging_dir`, or a part of it, is a file; or a folder has the name of one of the run's files.",
        "Move it away, or choose another `logging_dir`.",
    ),
    "Can't {action} {where}: access is denied ({cause}). Grant permission to list, read, write and delete, or choose another folder.": Entry(
        "The user or the credentials lack a permission on the folder or bucket.",
        "Grant permission to list, read, write and delete below the run folder, on every machine of the run.",
    ),
    "Can't {action} {where}: the credentials are missing or not valid ({cause}). Pass valid ones as (url, storage_options), or set them in the environment of the driver and of every node.": Entry(
        "The object store received no credentials, or expired or wrong ones.",
        "Set the credentials in the environment of the driver and of every node, or pass `(url, storage_options)`.",
    ),
    "Can't {action} {where}: the filesystem is read-only ({cause}). Choose another folder, or mount it writable.": Entry(
        "The folder is on a filesystem that is mounted read-only.",
        "Choose another `logging_dir`, or mount the filesystem writable.",
    ),
    "Can't {action} {where}: the folder or bucket is missing ({cause}). Create it, or correct its name.": Entry(
        "The storage does not create the folder by itself, or it was deleted while the run was active.",
        "Create it, or correct `logging_dir`.",
    ),
    "Can't {action} {where}: the storage did not answer properly, despite retries ({cause}). Start the run again once it is available; completed ranks are skipped.": Entry(
        "Server errors, throttling, dropped connections or time-outs lasted longer than a minute of retries.",
        "Start the run again once the storage answers.",
    ),
    "Can't {action} {where}: the storage is full ({cause}). Free some space, then start the run again; completed ranks are skipped.": Entry(
        "The disk is full, or a quota is used up.",
        "Free some space or raise the quota, then start the run again.",
    ),
    "Can't {action} {where}: the storage refused the request ({cause}). Check the URL and the storage options.": Entry(
        "The storage failed in another way; the text in parentheses is its own error.",
        "Check the URL, the storage options and the text in parentheses.",
    ),
    "Can't {action} {where}: there is no such bucket ({cause}). Create it, or correct its name.": Entry(
        "The bucket in the URL does not exist.",
        "Create the bucket, or correct `logging_dir`.",
    ),
    "Run folder {url} is in the memory of this process, where workers can't see it. Use a path or URL that all nodes can reach.": Entry(
        "`logging_dir` is a `memory://` URL, which workers in other processes can't read.",
        "Use a shared path or an object store; for tests, use `run_in_process`.",
    ),
    "Run folder {url} has all of its ranks completed, so nothing would run, but with other parameters: {differences}. Run all ranks again with rerun='all' or skip_completed=False, use another logging_dir, or take the former parameters. Nothing was changed.": Entry(
        "An orchestrator, such as Airflow, has started a run that would do nothing, although its steps have other parameters "
        "than those of the run that has completed the ranks: its success would be that of other outputs.",
        "Pass `rerun='all'` to replace the outputs, or use a `logging_dir` that differs wherever the parameters do.",
    ),
}

_FAILED_PARENTS: Mapping[str, Entry] = {
    "{name}, which it depends on, failed: {cause}": Entry(
        "An executor in `depends`, directly or further up the chain, failed; the end of the message is its error.",
        "Correct the error of the executor that is named, then start the chain again; completed ranks are skipped.",
    ),
    "the run in {url}, which it depends on, is not complete: {folder}; start run {name} again, which runs what is missing, then this one": Entry(
        "The `result.json` of a run folder in `depends` says that its run failed or was stopped; the message has the ranks that are missing and the first reason.",
        "Start that run again on its folder until it is complete, then this one.",
    ),
    "the run in {url}, which it depends on, was killed ({host}, pid {pid}, since {since}); start that run again, then this one": Entry(
        "The driver of the newest run in a folder in `depends` ended without a result; what an older result says does not count.",
        "Start that run again on its folder, which runs what is missing, then this one.",
    ),
    "the run in {url}, which it depends on, was killed (a run whose run.lock is damaged); start that run again, then this one": Entry(
        "The same, and its `run.lock` can't be read.",
        "Start that run again on its folder, which runs what is missing, then this one.",
    ),
}

_UNFINISHED_PARENTS: Mapping[str, Entry] = {
    "no run has ended in {url}, which it depends on (result.json is missing); run the executor with this logging_dir first, or correct the folder in depends": Entry(
        "The folder in `depends` is not that of a run of ray-pipeline, or its run has not taken place yet.",
        "Correct the folder, or run its executor first.",
    ),
    "the run in {url}, which it depends on, has not ended ({host}, pid {pid}, since {since}); start this one when that one has ended": Entry(
        "A run is at work in a folder in `depends`; runs don't wait for one another.",
        "Start this run again once that one has ended.",
    ),
    "the run in {url}, which it depends on, has not ended (a run whose run.lock is damaged); start this one when that one has ended": Entry(
        "The folder in `depends` has a `run.lock` that can't be read, written less than a minute ago.",
        "Start this run again a minute later.",
    ),
    "{url}/result.json, which it depends on, is damaged; start the run in that folder again, then this one": Entry(
        "The `result.json` of a folder in `depends` was edited or cut off.",
        "Start the run in that folder again: it runs what is missing, and writes a new result.",
    ),
}

_PARENTS = {**_FAILED_PARENTS, **_UNFINISHED_PARENTS}

_RUN: Mapping[str, Entry] = {
    "run {name}: {failed} of {world_size} ranks failed ({max_failed_ranks} allowed): {failure}; and {more} more. {completed} completed; start the run again in {logging_dir} to run only the missing ranks": Entry(
        "More ranks failed than `max_failed_ranks` allows, each for a reason of its own; the message shows five of them.",
        "Read the logs that the message names, correct the cause, then start the run again with the same `logging_dir`.",
    ),
    "run {name}: {failed} of {world_size} ranks failed ({max_failed_ranks} allowed): {ranks} of {world_size} ranks: {kind}: {error_type}: {message} (ranks {ranks}); log of rank {rank}: {log}; and {more} more. {completed} completed; start the run again in {logging_dir} to run only the missing ranks": Entry(
        "More ranks failed than `max_failed_ranks` allows; the message shows the five largest groups of ranks that failed for the same reason.",
        "Read the logs that the message names, correct the cause, then start the run again with the same `logging_dir`.",
    ),
    **{f"executor {{name}} was not run, because {problem}": entry for problem, entry in _PARENTS.items()},
    "run {name} was stopped before it started; start it again": Entry(
        "A chain was stopped when one executor had ended and the next one had not begun. Its run folder is as it was.",
        "Start the chain again: what has completed is skipped.",
    ),
    "run {name} was stopped before it started; clear the task to run it": Entry(
        "Airflow killed the task before its run had started.",
        "Clear the task in Airflow to run it.",
    ),
    "the run was stopped, but has not ended within 25.0 s: its thread is busy in {innermost_call}. It ends as soon as that returns, and its run folder stays locked until then; end this process to end it at once": Entry(
        "After a stop, an observer, the storage or Ray has blocked the driver's thread for longer than 25 s.",
        "Correct what blocks: an observer should return at once, storage should have time limits. To end it, kill the process.",
    ),
    "run {name} was stopped with {completed}/{world_size} ranks completed; start the run again in {logging_dir} to run the others": Entry(
        "Ctrl-C, SIGTERM or `executor.stop()` stopped the run.",
        "Start the run again with the same `logging_dir` to run the other ranks.",
    ),
    "run {name}: {failed} of {world_size} ranks failed, {completed} completed; a retry, or a clear, runs only the missing ranks. Run folder: {logging_dir} {value}": Entry(
        "More ranks failed than `max_failed_ranks` allows; the message shows the twenty largest groups of ranks that "
        "failed for the same reason, a line for each. Airflow retries the task if it has retries"
        " left, unless every failed rank has raised `AirflowFailException`.",
        "Read the logs that the message names, correct the cause, then clear the task.",
    ),
}

_STATS: Mapping[str, Entry] = {
    "stats are a list of steps, not a {type}": Entry(
        "A stats file, or what `PipelineStats.from_list` was given, holds JSON that is not a list.",
        "Remove the file if it is not one of this package's or datatrove's; its rank runs again.",
    ),
    "the stats have numbers that are too large to add: {error}": Entry(
        "A step counted a number that exceeds what a float can hold.",
        "Correct the step that counts it.",
    ),
    "stats of different steps can't be merged: step {index} is {new} and was {old} ({names} after {before}); every rank must run the same steps": Entry(
        "Two ranks ran different steps, for example because the pipeline's factory depends on the machine.",
        "Make every rank run the same steps, then run the ranks again with `skip_completed=False`.",
    ),
    "stats of different steps can't be merged: {names} steps and {before} before ({names} after {before}); every rank must run the same steps": Entry(
        "Two ranks ran different numbers of steps, for example because the pipeline's factory depends on the machine.",
        "Make every rank run the same steps, then run the ranks again with `skip_completed=False`.",
    ),
    "step {index} of the stats has no {key} that is a {kind}": Entry(
        "A step in a stats file lacks its name or its metrics.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "step {index} of the stats is {plain} and should be a dict": Entry(
        "A stats file holds something other than a step.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "step {index} of the stats, {name}, {place}: {error}": Entry(
        "A metric of a step in a stats file is damaged; the end of the message says how.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "the stats of {name} are not plain numbers; add only numbers to them: {error}": Entry(
        "A step of another library put something other than numbers into its stats.",
        "Pass only numbers to the stats of that step.",
    ),
    "{source} is damaged, so its rank has to run again: it is not JSON: {error}": Entry(
        "The stats file was cut off or overwritten, for example when the machine crashed.",
        "Start the run again, which replaces the file; if this run has already run the rank, do nothing.",
    ),
    "{source} is damaged, so its rank has to run again: {error}": Entry(
        "The stats file is JSON but does not hold stats; the end of the message says what is wrong.",
        "Start the run again, which replaces the file; if this run has already run the rank, do nothing.",
    ),
    "the unit {unit} is no text": Entry(
        "The unit of a metric in a stats file is not a string. The text is part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "{value} is not a number": Entry(
        "A step counted something that is not a number, or a stats file holds such a value.",
        "Pass a number to the step's stats.",
    ),
    "it has another form: {error}": Entry(
        "`stats.cache.json` is JSON, but not what this version writes. The text is part of a message about the file.",
        "Do what that message says.",
    ),
    "it is a JSON {type} instead of an object": Entry(
        "A file of the run folder was overwritten with other JSON. The text is part of a message about the file.",
        "Do what that message says.",
    ),
    "it is nested too deeply": Entry(
        "A file of the run folder has more nested brackets than Python can read. The text is part of a message about the file.",
        "Do what that message says.",
    ),
    "its digest does not fit its content": Entry(
        "`stats.cache.json` was altered or damaged after it was written. The text is part of a message about the file.",
        "Do what that message says.",
    ),
    "its sums are not those of its ranks": Entry(
        "`stats.cache.json` lists other ranks than its sums are made of. The text is part of a message about the file.",
        "Do what that message says.",
    ),
    "n={n} is no number of values": Entry(
        "The count of a metric in a stats file is negative or infinite. The text is part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "the total is missing": Entry(
        "A metric in a stats file has no `total`. The text is part of a message about the file.",
        "Start the run again, which replaces the file; correct a file that was written by hand.",
    ),
    "{value} is no time in seconds": Entry(
        "A step added an infinite value or NaN to its time.",
        "Pass a finite number of seconds.",
    ),
}

_OTHER: Mapping[str, Entry] = {
    "RayPipelineExecutor has no parameter {name}; did you mean {similar}?": Entry(
        "An attribute of an executor was set whose name resembles that of a parameter.",
        "Correct the name.",
    ),
    "module {module} has no attribute {name}": Entry(
        "The package has no public name like this.",
        "Correct the name; README.md and docs/architecture.md list those that exist.",
    ),
    "the worker's process received SIGTERM": Entry(
        "Ray, or a machine that shuts down, ended the worker while it ran a rank. The message is only in the rank's log.",
        "Do nothing: the rank counts as lost and is tried again.",
    ),
    "The Ray pipeline was stopped": Entry(
        "The flow run was cancelled, and its ranks have ended.",
        "Start the flow again to run the other ranks.",
    ),
}

_RANKS: Mapping[str, Entry] = {
    **{
        f"input {{key}} {what} since the inputs were listed, so what this rank has read may be of either version; the next run lists the inputs again": Entry(
            "Somebody wrote or removed the file between the listing and the end of the rank, so no marker was set.",
            "Start the run again, when nobody writes to the source any more.",
        )
        for what in ("has changed", "is gone")
    },
    "another node of the gang failed, and this one did not end within 30.0 s": Entry(
        "One node of a gang failed its rank, and another one went on waiting, usually for the first.",
        "Look into the log of the node that failed first; the rank is tried again.",
    ),
    "in step {step}: (no message)": Entry(
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
    "the placement group of the gang was removed before all of its workers had started": Entry(
        "Something removed the gang's placement group while its workers were starting.",
        "Do nothing: the run requests another one; if it happens again, find out what removes placement groups.",
    ),
    "ran over its time limit of {limit_s} s": Entry(
        "The rank group ran longer than `time`.",
        "Raise `time`, cut the work into more ranks, or allow retries with `RetryPolicy(max_timeouts=...)`.",
    ),
    "stalled at {where}: no log line, count or item for {silent_s} s, with stall_timeout={limit_s}; its log has the stacks "
    "of all threads; if it was at work, raise stall_timeout, or let its steps log something": Entry(
        "The rank did nothing that shows for longer than `stall_timeout`: it hangs, for example in a connection without a "
        "time limit, or works silently.",
        "Read the stacks at the end of its log. Give what hangs a time limit, allow retries with "
        "`RetryPolicy(max_timeouts=...)`, or raise `stall_timeout`.",
    ),
    "an earlier attempt, which was given up because its worker could not be reached, has set the rank's marker after a "
    "later attempt had completed, so its files may be of either and the marker was removed; the next run runs it "
    "again": Entry(
        "A worker on another machine was out of reach while its attempt was given up and the rank ran again elsewhere. Its "
        "marker came after the next attempt's, at the end of the run. `stats.json` still includes the rank.",
        "Start the run again: it runs the rank again.",
    ),
    "(its message can't be shown)": Entry(
        "The error for which a rank's files could not be stored has no message that can be shown.",
        "Look into the rank's log.",
    ),
    "(no message)": Entry(
        "The error for which a rank's files could not be stored has no message.",
        "Look into the rank's log.",
    ),
    "no answer within {limit_s} s": Entry(
        "Remote storage did not answer a call. It is part of the message that names the file, once the call was repeated "
        "for a minute.",
        "Look at the storage, and at the network between it and the node.",
    ),
    "the storage had not taken its files 600.0 s after its steps; its worker was killed": Entry(
        "The rank's steps had ended, but calls of the storage did not return, so the worker was replaced. The rank is tried "
        "again as after the loss of a worker.",
        "Look at the storage, and at the network between it and the node.",
    ),
    "the rank's process could not be started: {error}": Entry(
        "With `tasks_per_job` above 1, the worker's machine had too few processes, open files or memory left to start the "
        "rank's process. Only this rank failed; it is tried again as after the loss of a worker.",
        "Lower `tasks_per_job`, or raise the limits of processes and open files on the nodes.",
    ),
    "the rank's process died: exit code {code}": Entry(
        "With `tasks_per_job` above 1, the process of one rank ended by itself, for example with `os._exit`.",
        "Look for the cause in the rank's log; the rank is tried again.",
    ),
    "the rank's process died: signal 9 (Killed), possibly by the kernel because memory ran out": Entry(
        "With `tasks_per_job` above 1, the process of one rank was killed, most often because the machine ran out of "
        "memory.",
        "Raise `mem_per_cpu_gb` or lower `tasks_per_job`; the rank is tried again.",
    ),
    "the rank's process died: signal {code} ({name})": Entry(
        "With `tasks_per_job` above 1, the process of one rank crashed, usually in native code, or received a signal.",
        "Look for the cause in the rank's log and in the libraries that the step calls; the rank is tried again.",
    ),
    "the run ended while this rank was running": Entry(
        "The run was stopped, or ended by an error, before this rank had ended.",
        "Start the run again to run the rank.",
    ),
    "the run's time limit of {run_timeout} s was over before this rank had completed": Entry(
        "The whole run took longer than `run_timeout`.",
        "Start the run again to run the rank; raise `run_timeout` if that happens regularly.",
    ),
    "the worker was killed because another rank on it ran over its time limit": Entry(
        "The files of the rank were not stored yet when the next rank on the same worker ran longer than `time`.",
        "Do nothing: the rank is tried again.",
    ),
    "the worker died while it was idle": Entry(
        "The files of the rank were not stored yet when its worker died between two calls.",
        "Do nothing: the rank is tried again.",
    ),
}

_WARNINGS: Mapping[str, Entry] = {
    "step {index} ({name}) lists {paths} files now, and {files} in the first run of this folder{paths}; each rank takes its files from that listing, so a rank that runs now reads others than it did, and completed ranks are not run again: use inputs=InputFiles(...), or another logging_dir": Entry(
        "A reader of datatrove's, or a step that holds `InputFiles`, deals files by itself, and there are others now.",
        "Give the executor `inputs`, or a run folder for each state of the source.",
    ),
    "inputs of completed ranks have changed, and Refresh.rerun_on has no 'inputs', so ranks {kept} keep their old outputs; rank {first}: {reason}": Entry(
        "`refresh` says that completed ranks stay as they are.",
        "Add 'inputs' to `rerun_on`, if these ranks should run again.",
    ),
    "ranks of {parent}, which this run depends on, have run since ranks {ranks} were completed, so these may be older than what they are made from; use refresh=Refresh(rerun_on=['parents']), or skip_completed=False to run all ranks again": Entry(
        "Ranks of a parent were run again, because they had failed, were stale, or their markers were removed.",
        "Do one of the two things that the message names, if the outputs depend on those of the parent.",
    ),
    **{
        f"run_on_dependency_fail: executor {{name}} was run although {problem}": entry
        for problem, entry in _FAILED_PARENTS.items()
    },
    "stats of rank {rank} are not in stats.json: {error}": Entry(
        "The rank's stats don't fit those of the ranks before; the end of the message says why.",
        "Run all ranks with the same steps if you need complete stats; the rank's output is good.",
    ),
    "stats of ranks {first} to {last} are not in stats.json: {error}": Entry(
        "The stats of these ranks don't fit those of the ranks before; the end of the message says why.",
        "Run all ranks with the same steps if you need complete stats; the ranks' outputs are good.",
    ),
    "step {index} ({step}): parameters changed since an earlier run in this folder: {names}; ranks {ranks} keep their old outputs": Entry(
        "These ranks were completed by an earlier run whose step had the same name, but other parameters; or another body, if it is a lambda, or a function or class of a script or a notebook.",
        "Use `skip_completed=False` or another `logging_dir` if all ranks should have the new parameters.",
    ),
    "stats.cache.json is damaged or was altered, so the stats files are read instead: {error}": Entry(
        "The merged stats that an earlier run kept don't fit their own digest, or can't be read.",
        "Do nothing: the file is written again at the end of the run.",
    ),
    "{url}/executor.json is missing or has no fingerprint, although ranks are completed, so this run can't be compared with the earlier one; check that the pipeline is the same": Entry(
        "Somebody has removed or replaced the description of the earlier run; the number of ranks alone was compared, as far as other files tell it.",
        "Make sure that the pipeline is the same as in the earlier run, or use another `logging_dir`.",
    ),
    "{url}/executor.json is damaged or of a newer release, so this run can't be compared with the earlier one; check that the pipeline is the same": Entry(
        "The description of the earlier run can't be read; the number of ranks alone was compared, as far as other files tell it.",
        "Make sure that the pipeline is the same as in the earlier run, or use another `logging_dir`.",
    ),
    "stats/{rank}.json is damaged, so its rank has to run again: it has no steps": Entry(
        "The stats file of a completed rank is an empty list, although those of other ranks have steps.",
        "Do nothing: the rank runs again, which replaces the file.",
    ),
    "stats/{rank}.json could not be read, so stats.json lacks this rank: {content}": Entry(
        "The stats file of a completed rank is missing or can't be read.",
        "Remove the rank's marker if you need its stats, so that the next run runs it again.",
    ),
}

_LOGS: Mapping[str, Entry] = {
    "pipeline={path} is not sent with the job, so the cluster must have it: here it raises {name}: {error}": Entry(
        "The module of the pipeline is on this machine, but it can't be imported, lacks the factory, or can't be pickled.",
        "Correct what the warning names, if the module is not one that the cluster has in another form.",
    ),
    "Airflow does not take the links of job {submission_id}": Entry(
        "Airflow's API did not answer when the task told it of its job. The task goes on.",
        "Look for the job in Ray's dashboard, by the id.",
    ),
    "Airflow does not take the link to the run folder": Entry(
        "Airflow's API did not answer when the task began. The run goes on, without the button on the task's page.",
        "Look up the run folder in the task's log.",
    ),
    "The result of job {submission_id} can't be read: {error}; another one is submitted": Entry(
        "A job of an earlier try has succeeded, and neither its log nor the run folder can be read from Airflow.",
        "Do nothing: the new job has nothing to do, and tells the result.",
    ),
    "Can't wait for job {submission_id} any longer": Entry(
        "The trigger of a deferred task has failed; the traceback says how. The task looks at the job itself.",
        "Read the traceback.",
    ),
    "Job {submission_id} could not be stopped; stop it in the cluster": Entry(
        "The task was killed, and the cluster did not stop its job.",
        "Use `ray job stop`, or the job's page in Ray's dashboard.",
    ),
    "The job of the trigger could not be stopped; stop it in the cluster": Entry(
        "A trigger has failed or timed out, and the cluster did not stop the job of its task.",
        "Use `ray job stop`, or the job's page in Ray's dashboard.",
    ),
    "Airflow does not say whether the task is still deferred; its job is stopped": Entry(
        "Airflow has cancelled a trigger, and its API does not say what became of the task.",
        "Clear the task if it was to go on.",
    ),
    "Job {submission_id} does something else, so it is stopped: {error}": Entry(
        "A job of an earlier try runs another pipeline than this try, for example since the DAG has changed.",
        "Do nothing; the new job runs what is missing.",
    ),
    "{error}; the driver is started again": Entry(
        "The driver of a job was lost, for example with its node. A new one does what is missing.",
        "Do nothing, unless it happens often: then look at the cluster's logs for the reason.",
    ),
    "{shown_url} lets no web socket through ({error}), so the log of a job is shown when the job is over": Entry(
        "A proxy before the dashboard passes no web sockets on, by which Ray sends the log of a job as it grows.",
        "Allow them in the proxy, or read the log when the job is over.",
    ),
    "Nothing was run: no input has changed since the last run of {logging_dir}": Entry(
        "Every rank is completed, and all inputs are as they were.",
        "Do nothing.",
    ),
    "{method} is never called while ranks run; use {instead}": Entry(
        "A subclass of the executor overrides a method that datatrove's executor calls.",
        "Do the same with what the message names, and remove the method.",
    ),
    "the clean-up of a step failed as well: {error}": Entry(
        "A rank failed, and then the `finally` of a generator that a step had returned raised this error. Of several such "
        "errors, the first fails the rank and the others are logged.",
        "Read the rank's failure first; the clean-up may have failed because of it.",
    ),
    "The lease on {url} is lost, so this run stops: another run has taken it over, or its files were removed": Entry(
        "The machine was suspended, or could not write to the storage for a minute; or `run.lock` was deleted.",
        "Wait for the other run, then start this one again if ranks are missing; this one ends with `RunFolderLockedError`.",
    ),
    "could not push the result of the failed run to XCom; read result.json in {logging_dir}": Entry(
        "Airflow did not store the result of a failed run as an XCom; the traceback says why.",
        "Read `result.json` in the run folder instead.",
    ),
    "no flow is called {name} in this file; make it outside of functions": Entry(
        "Prefect looks for a flow that `ray_pipeline_flow` has made where its file is executed again, and it is not there.",
        'Make the flow when the file is executed, not in a function or below `if __name__ == "__main__":`.',
    ),
    "the node of the gang's first member has no free port or file descriptor left": Entry(
        "The members of a gang find one another by a port of that node, and none could be reserved.",
        "Raise the limit of open files there, or leave it to the run: the gang is tried again.",
    ),
    "node {ip} is to be taken away: its workers finish what they run, and get nothing else": Entry(
        "Ray drains the node, for instance because a spot machine is about to be reclaimed.",
        "Leave it to the run: other workers take over, and what is lost with the node costs no retries.",
    ),
    "executor {name} failed, so the executors that depend on it are not run, unless they have "
    "run_on_dependency_fail=True: {error}": Entry(
        "An executor of a chain failed; those that don't depend on it are run.",
        "Correct the error that the message names, then start the chain again.",
    ),
    "observer {observer} raised an exception in {event}; the run continues, and further exceptions of this observer are not logged": Entry(
        "A method of one of your `observers` raised; the traceback follows.",
        "Correct the observer.",
    ),
    "rank {rank} failed": Entry(
        "A step raised, or the rank's files could not be stored; the traceback follows. The message is in the rank's log.",
        "Read the traceback, correct the cause, then start the run again.",
    ),
    "time limit of {limit_s} s is over": Entry(
        "The rank group ran longer than `time`; its worker is killed if it is still running 2 s later. The message is in the rank's log.",
        "Raise `time`, or cut the work into more ranks.",
    ),
    "{name} is not tried again, because a retry can't fix this error: {type}: {error}": Entry(
        "The Prefect task failed with an error that would occur again, such as a wrong argument.",
        "Correct the error that the message names, then start the flow again.",
    ),
    "Ignored {count} damaged line(s) in {url}, the first is {line}": Entry(
        "A line of `attempts/history.jsonl` was cut off when a driver was killed, or was edited.",
        "Do nothing: the attempts on these lines are not counted.",
    ),
    "No heartbeat for the lease on {url} could be written; after {stale_s} s without one, another run may take the folder over: {error}": Entry(
        "The storage did not accept a heartbeat in time; the next one follows 10 s later.",
        "Check the storage if it happens again.",
    ),
    "Nothing was run: every rank was completed by an earlier run of {logging_dir}; pass another logging_dir, or rerun='all', to run them again": Entry(
        "The Airflow task uses a run folder in which every rank has a marker.",
        "Pass another `logging_dir`, such as one with `{{ ds }}` in it, if the ranks should run again.",
    ),
    "The lease on {url} is not given back yet, because the storage does not answer; it expires after {stale_s} s": Entry(
        "The storage did not answer within 4 s at the end of the run; the process goes on trying for a minute.",
        "Start the next run at once in the same process, or when this one has ended; elsewhere, wait 60 s.",
    ),
    "The lease on {url} is not given back, and expires after {stale_s} s: {error}": Entry(
        "The storage refused to remove `run.lock` at the end of the run; the end of the message says why.",
        "Wait 60 s before the next run from another host; on the same host, start it at once.",
    ),
    "Took over the stale lease on {url} from a run whose run.lock is damaged; check that the earlier run has ended": Entry(
        "An earlier run left a `run.lock` or a file in `leases/` that can't be read, and has sent no heartbeat for 60 s.",
        "Check that no other run uses the folder.",
    ),
    "Took over the stale lease on {url} from {host}, pid {pid}, since {since}; check that the earlier run has ended": Entry(
        "An earlier run of this folder was killed before it could release its lease.",
        "Check that the earlier run has ended; this one runs the ranks that are missing.",
    ),
    "could not upload the history or the merged stats of {url}; trying again in 30.0 s: {error}": Entry(
        "The attempts of the last 30 s could not be stored on remote storage while the run goes on; the end of the message says why.",
        "Check the storage if it happens again. The run keeps the records, and writes them at its end.",
    ),
    "could not upload the log {url}; trying again in {interval_s} s": Entry(
        "The log of a running rank could not be stored on remote storage; the traceback says why.",
        "Check the storage if it happens again.",
    ),
    "could not set the state of flow run {flow_run_id} to Cancelled; set it in Prefect's UI: {error}": Entry(
        "The run was stopped, but Prefect's server did not accept the state *Cancelled*, so the flow run stays *Cancelling*.",
        "Set the state of the flow run in Prefect's UI.",
    ),
    "could not reset this worker, so it is not reused": Entry(
        "A worker could not be cleaned up for the next executor of the chain; the traceback says why.",
        "Do nothing: a new worker is started instead.",
    ),
    "{name}: the end of the run could not be stored in {url}: {type}: {error}": Entry(
        "Stats or result could not be written, or the lease is lost. The run raises this error, unless it was stopped or "
        "had ended with another one.",
        "Correct what the error at the end names. Start the run again: completed ranks are skipped.",
    ),
    "waiting for {what}": Entry(
        "A local cluster takes longer than 5 s to start, or nothing answers at the address of the cluster yet.",
        "Wait, or stop the run and check the address.",
    ),
    "the head of the Ray cluster at {address} does not answer; it is asked again": Entry(
        "The head's machine, its process `gcs_server` or the network is down or overloaded.",
        "Do nothing if it is restarted; after 15 s without an answer the run ends with `ClusterUnreachableError`.",
    ),
    "the run failed, and SIGTERM ends its process: {error}": Entry(
        "SIGTERM came when the run could not be stopped in order any more: it was just failing, and its error is the rest of the message.",
        "Correct what the error names, then start the run again; ranks that are completed are not run again.",
    ),
    "{name}: an earlier run in {url} had more ranks than this one, which has {tasks}; what ranks {beyond} have written is not replaced: remove it, or write to another place": Entry(
        "`skip_completed=False` runs all ranks again, with fewer of them than before. The outputs of the others stay.",
        "Remove these outputs, or let the steps write to another folder.",
    ),
    "this process starts a local Ray cluster for the second time, and would for each further run, which takes some seconds; add `import ray; ray.init('local')` before the first run, so that all runs use one cluster": Entry(
        "A loop or a script runs several executors one after another, and each starts and ends a cluster of its own.",
        "Add `ray.init('local')` before the first run; all runs of the process then use that cluster.",
    ),
    "{self} could not send its message about {title}: {reason}": Entry(
        "A `WebhookNotifier` or `MailNotifier` got no answer, or one that refuses; the run is not affected.",
        "Correct what the end of the message says: the server, the URL or the login.",
    ),
    "{self} has not sent its message within {timeout_s} s": Entry(
        "The server of a `WebhookNotifier` or `MailNotifier` is slow or can't be reached; the run is not affected.",
        "Check the server, or raise `timeout_s`.",
    ),
    "the connection to Ray could not be closed within 10.0 s, because its head does not answer": Entry(
        "The head of the cluster died, and Ray waits for it.",
        "Do nothing; Ray may end this process within a minute.",
    ),
    "the last progress of the run could not be stored in {url}: {error}": Entry(
        "`progress.json` shows the run as it was some seconds before its end; `result.json` is right.",
        "Do nothing, or correct what the error at the end names.",
    ),
    "tasks or actors that request {requests} wait for resources, while {running} workers of this run hold {bundle} each; if a step submits them to Ray, leave room for them: lower workers or cpus_per_task": Entry(
        "A step waits for Ray tasks or actors of its own, and the workers of the run hold all resources; or other jobs "
        "on the cluster wait.",
        "Lower `workers` or `cpus_per_task`, so that resources are left for what the steps submit.",
    ),
    "worker process {pid} is still running 10.0 s after it was killed; check whether it waits for a disk": Entry(
        "A worker did not end within 10 s after SIGKILL, usually because it waits for a disk, a network drive or a GPU.",
        "Check the process on the driver's machine, and end it by hand if it stays.",
    ),
    "{name}: further failures are only counted; attempts/history.jsonl in the run folder lists them all": Entry(
        "A hundred attempts have failed, and the log shows no more.",
        "Read `attempts/history.jsonl` in the run folder for the others.",
    ),
    "{name}: ranks that had not started failed: {error_type}: {message}": Entry(
        "The run ended before all ranks had started, for the reason that the message ends with. The line is logged once "
        "for all of these ranks.",
        "Do what the end of the message says, and start the run again.",
    ),
    "{name}: {failure}; it is tried again": Entry(
        "An attempt of a rank failed; `{failure}` has the rank, the kind of failure, "
        "the number of attempts, the error and the log. Without the last words, the rank is not tried again.",
        "Read the rank's log, which the message names, if the failure comes again.",
    ),
    "{what} could not be created: {error}": Entry(
        "Prefect's server refused an artifact; the run is not affected.",
        "Correct what the end of the message says, if you need the artifact.",
    ),
    "{what} is not waited for any longer, because Prefect's server has not answered for {patience_s} s; check the server": Entry(
        "Prefect's server is slow or can't be reached; the artifact may still appear.",
        "Check the server if artifacts are missing.",
    ),
}

ENTRIES: Mapping[str, Entry] = {
    **_CONFIG,
    **_AIRFLOW,
    **_JOBS,
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
    "there is no such folder": "A ConfigError about runtime_env says it.",
    **dict.fromkeys(("status {status}", "it broke off: {why}"), "A warning about web sockets says it."),
    "'..' leads out of it": "A ConfigError about the pattern says it.",
    "a format of another release": "A warning about executor.json says it instead.",
    "a rank is missing": "A RunFolderMismatchError says it instead.",
    "its last line is cut off": "A RunFolderMismatchError says it instead.",
    "no input": "A RunFolderMismatchError says it instead.",
    "no rank": "A RunFolderMismatchError says it instead.",
    "no fingerprint": "A warning about executor.json says it instead.",
    "no steps": "A warning about executor.json says it instead.",
    "no older ranks": "A warning about executor.json says it instead.",
    "result.json lacks what a result needs: {error}": "A DependencyFailedError says it instead.",
    **{
        f"run_on_dependency_fail: executor {{name}} was run although {problem}": "Such a parent stops the executor."
        for problem in _UNFINISHED_PARENTS
    },
    "no number of an attempt": "A warning about the history says it instead.",
    "no ranks": "A warning about the history says it instead.",
    "not in order": "A warning about executor.json says it instead.",
    "no worker could start within startup_timeout={startup_timeout} s: runs in this process{last_words}": "A slot always starts.",
    "{reason}: runs in this process": "The slot in this process takes a group of any size.",
    "{message}; runs in this process": "Nothing is unschedulable in this process.",
}
"""Messages that no user can get, each with the reason."""
