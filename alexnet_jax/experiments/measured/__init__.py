"""What `measure` can measure: functions of a `measure.Task` that return JSON."""
