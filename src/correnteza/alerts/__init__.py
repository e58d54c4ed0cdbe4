"""Alerts without Prometheus: conditions on the services' own metrics.

GET /metrics --> [scrape] --> readings --> [state: pure] --> a notification, now and then
                                                                 |
                                          log, [delivery]: webhook (signed), command
"""
