"""One step each: a Prefect task that calls one FedMed function, with a speaking name, retries and a time limit."""
