//! `RotationService`: the job, by hand.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;

use crate::domain::rotation::{RunOptions, Trigger};
use crate::proto::rotation_service_server::RotationService as Api;
use crate::proto::{
    DescribeRotationRequest, DescribeRotationResponse, RunRotationRequest, RunRotationResponse,
};
use crate::rotation::RotationService;

use crate::pipeline::{Door, Subject};

use super::convert;

use super::status::Status;

/// The service at the door.
#[derive(Debug)]
pub struct Rotations {
    pub(super) door: Arc<Door>,
    pub(super) service: RotationService,
}

#[tonic::async_trait]
impl Api for Rotations {
    type RunRotationStream = Pin<Box<dyn Stream<Item = Result<RunRotationResponse, Status>> + Send>>;

    async fn run_rotation(
        &self,
        request: tonic::Request<RunRotationRequest>,
    ) -> Result<tonic::Response<Self::RunRotationStream>, Status> {
        let visitor = self.door.visitor(&request);
        let RunRotationRequest { force_new_versions, refresh_all } = request.into_inner();
        let options = RunOptions { force_new_versions, refresh_all };
        let service = self.service.clone();
        self.door
            .call(visitor, Ok(Subject::default()), move |permit, _origin| async move {
                let reports = service.start(&permit, options, Trigger::Request).await?;
                let stream = WatchStream::new(reports)
                    .map(|run| Ok(RunRotationResponse { run: Some(convert::run(&run)) }));
                Ok(Box::pin(stream) as Self::RunRotationStream)
            })
            .await
    }

    async fn describe_rotation(
        &self,
        request: tonic::Request<DescribeRotationRequest>,
    ) -> Result<tonic::Response<DescribeRotationResponse>, Status> {
        let visitor = self.door.visitor(&request);
        let DescribeRotationRequest {} = request.into_inner();
        let service = self.service.clone();
        self.door
            .call(visitor, Ok(Subject::default()), |permit, _origin| async move {
                let (run, next_run, last_tick) = service.describe(&permit).await?;
                Ok(DescribeRotationResponse {
                    run: run.as_ref().map(convert::run),
                    next_run_time: next_run.map(convert::time),
                    last_tick_time: last_tick.map(convert::time),
                })
            })
            .await
    }
}
