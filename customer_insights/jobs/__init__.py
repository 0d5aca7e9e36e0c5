"""One module per Ray batch job: what is submitted to the compute pool. What a job computes is in the package's other
modules."""
